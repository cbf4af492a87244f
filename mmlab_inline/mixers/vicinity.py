"""Vicinity attention (Vicinity Vision Transformer, TPAMI 2023, arXiv 2206.10552)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import merge_heads, normalised_attention, split_heads, token_mean
from ..utils import check_whole
from .base import QKVMixer, token_mixer
from .cosformer import half_waves
from .weights import Weights, divisive_weights


@token_mixer('vicinity')
class VicinityAttention(QKVMixer):
    """``relu(q_i).relu(k_j)`` times a cosine of the distance in rows plus one in columns, divisive.

    Queries, keys and values are narrower than the tokens; the output is gated by the mean token.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim / reduction``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        reduction: C over the channels of queries, keys and values.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``num_heads * reduction`` does not divide ``dim``.
    """

    paper = 'Vicinity ViT, TPAMI 2023'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        reduction: int = 2,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        check_whole(dim=dim, num_heads=num_heads, reduction=reduction)
        parts = num_heads * reduction
        if dim % parts:
            raise ValueError(f'num_heads * reduction = {parts} does not divide dim={dim}')
        self.reduction = reduction  # the projections are as wide
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        self.se_fc = nn.Sequential(
            nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim, bias=False)
        )

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self._finish(normalised_attention(*self._features(x, hw_shape)), x)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        features = self._features(x, hw_shape)
        return divisive_weights(*features, finish=lambda out: self._finish(out, x))

    def _features(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        height, width = hw_shape
        rows = (wave.repeat_interleave(width, dim=0) for wave in half_waves(height, x))
        columns = (wave.repeat(height, 1) for wave in half_waves(width, x))
        waves = (*rows, *columns)
        q, k = (F.relu(t) for t in (q, k))
        q, k = (torch.cat([t * wave for wave in waves], dim=-1) for t in (q, k))
        return q, k, v

    def _finish(self, out: Tensor, x: Tensor) -> Tensor:
        return self.proj(merge_heads(out)) * (1 + self.se_fc(token_mean(x).to(x.dtype)).sigmoid())

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        gate, proj = weights.get('se_fc.0.weight'), weights.get('proj.weight')
        if gate is None or proj is None:
            return None
        return dict(reduction=proj.shape[0] // proj.shape[1])

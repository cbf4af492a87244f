"""cosFormer (ICLR 2022, arXiv 2202.08791)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import merge_heads, normalised_attention, split_heads
from .base import QKVMixer, token_mixer
from .weights import Weights, divisive_weights


@token_mixer('cosformer')
class CosformerAttention(QKVMixer):
    """``relu(q_i).relu(k_j)`` times the cosine of the distance in row-major order, divisive.

    Half a period is twice the length of the map, so that weights are positive. On a map,
    neighbours along a row are near and those along a column are far.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'cosFormer, ICLR 2022'
    looks_like = ('spatial_reduction',)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self._finish(normalised_attention(*self._features(x)))

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        return divisive_weights(*self._features(x), finish=self._finish)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        waves = half_waves(x.shape[1], x)
        q, k = (F.relu(t) for t in (q, k))
        q, k = (torch.cat([t * wave for wave in waves], dim=-1) for t in (q, k))
        return q, k, v

    def _finish(self, out: Tensor) -> Tensor:
        return self.proj(merge_heads(out))


def half_waves(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of ``pi / 2 * i / length``, both (length, 1), in at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    angle = torch.arange(length, device=like.device, dtype=dtype)[:, None] * (math.pi / 2 / length)
    return angle.cos(), angle.sin()

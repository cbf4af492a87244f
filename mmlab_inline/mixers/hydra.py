"""Hydra attention (Bolya et al., ECCV workshops 2022, arXiv 2209.07484)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import merge_heads, split_heads
from ..utils import check_whole
from .base import QKVMixer, Site, token_mixer
from .weights import FactoredWeights, Weights


@token_mixer('hydra')
class HydraAttention(QKVMixer):
    """As many heads as channels: ``q_i / |q_i| * sum_j k_j / |k_j| * v_j``, element by element.

    Args:
        dim: Channels C.
        num_heads: Has no effect.
        qkv: ``'separate'`` or ``'joint'`` projections.
        reference_tokens: The sum over a map counts as if the map had so many tokens, so that it
            does not grow with the image; None: the published plain sum. In a backbone the tokens of
            the map at the size of pretraining.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'Hydra Attention, ECCVW 2022'
    looks_like = ('spatial_reduction',)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        reference_tokens: int | None = None,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        check_whole(reference_tokens=reference_tokens)
        self.reference_tokens = reference_tokens

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        return {} if site.grid is None else dict(reference_tokens=site.grid[0] * site.grid[1])

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v = self._features(x)
        context = (k * v).mean(1, keepdim=True) * self._count(x)
        return self.proj((q * context).to(x.dtype))

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        # A channel is a head.
        q, k, v = (split_heads(t, self.dim) for t in self._features(x))
        scale = self._count(x) / x.shape[1]
        return FactoredWeights(v, lambda out: self.proj(merge_heads(out)), q=q, k=scale * k)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        accurate = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (t.to(accurate) for t in self.project(x))
        q, k = (F.normalize(t, dim=-1, eps=1e-6) for t in (q, k))
        return q, k, v

    def _count(self, x: Tensor) -> int:
        """As how many tokens the mean over all counts; of a window all do."""
        return x.shape[1] if self.window_size else self.reference_tokens or x.shape[1]

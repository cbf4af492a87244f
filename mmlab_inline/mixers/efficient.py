"""Efficient attention (Shen et al., WACV 2021, arXiv 1812.01243)."""

import torch
from torch import Tensor

from ..ops import merge_heads, split_heads
from .base import QKVMixer, token_mixer
from .context import attend_by_context
from .weights import FactoredWeights, Weights


@token_mixer('efficient')
class EfficientAttention(QKVMixer):
    """Softmax over the channels of each query, and over the tokens of each channel of the keys.

    Every channel of the keys is a distribution over tokens, and rows of weights sum to 1 as they
    are.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'Efficient Attention, WACV 2021'
    looks_like = ('spatial_reduction',)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return attend_by_context(self, x, self._features)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        return FactoredWeights(
            v, lambda out: self.proj(merge_heads(out)), q=q.softmax(-1), k=k.softmax(-2)
        )

    @staticmethod
    def _features(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        accurate = torch.promote_types(q.dtype, torch.float32)
        k = k.to(accurate)
        # Normalised with the context: a distribution over a map's tokens is too small for float16.
        k = (k - k.detach().amax(-2, keepdim=True)).exp()
        return q.softmax(-1, dtype=accurate), k, k.mean(-2, keepdim=True)

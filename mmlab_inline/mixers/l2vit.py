"""Linear global attention of L2ViT (arXiv 2501.16182)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import LocalConcentration, convolve_tokens
from ..ops import merge_heads, split_heads, weighted_means
from ..utils import check_flag
from .base import QKVMixer, token_mixer
from .weights import FactoredWeights, Weights

# The least sum of a query's weights that is divided by, whatever the number of tokens.
_LEAST_SUM = 100


@token_mixer('l2vit')
class L2ViTAttention(QKVMixer):
    """``t q_i.k_j / max(sum_t q_i.k_t, 100)`` of ReLU features, t learned for each head.

    Rows of weights sum to t, which starts at ``head_dim ** -0.5``, and to less on small maps.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        local: Add the local part of the authors' blocks: a norm and two 7x7 convolutions of the
            output, with BatchNorm between them.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``local`` is not True or False.
    """

    paper = 'L2ViT, 2025'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        local: bool = False,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        check_flag(local=local)
        self.local = local
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), (dim // num_heads) ** -0.5))
        if local:
            self.norm3 = nn.LayerNorm(dim)
            self.local_mp = LocalConcentration(dim)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        q, k = F.relu(q), F.relu(k)
        k_mean = k.mean(-2, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        weights = q * (k_mean * x.shape[1])
        weights = self.temperature * weights / weights.sum(-1, keepdim=True).clamp(min=_LEAST_SUM)
        return self._finish(weights.to(v.dtype) @ weighted_means(k, k_mean, v), hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        q, k = F.relu(q), F.relu(k)
        sums = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)
        q = self.temperature * q / sums.clamp(min=_LEAST_SUM)
        return FactoredWeights(v, lambda out: self._finish(out, hw_shape), q=q, k=k)

    def _finish(self, out: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        out = self.proj(merge_heads(out))
        if not self.local:
            return out
        return out + convolve_tokens(self.local_mp, self.norm3(out), hw_shape)

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        if 'temperature' not in weights:
            return None
        return dict(
            num_heads=weights['temperature'].shape[0], local='local_mp.conv1.weight' in weights
        )

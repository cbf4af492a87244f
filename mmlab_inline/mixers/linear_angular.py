"""Linear-angular attention (Castling-ViT, CVPR 2023, arXiv 2211.10526)."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import merge_heads, split_heads
from .base import QKVMixer, token_mixer
from .weights import FactoredWeights, Weights


@token_mixer('linear_angular')
class LinearAngularAttention(QKVMixer):
    """The first term of the angle between queries and keys, and a 3x3 convolution of the values.

    ``u_i = v_i / 2 + q_i / |q_i| [sum_j (k_j / |k_j|)^T v_j] / pi``, then ``u_i / |u_i|`` per head.
    The convolution has one kernel a head; the authors' runs over the flattened tokens, which would
    depend on the width of the map. Their masked softmax branch of training is left out.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'Castling-ViT, CVPR 2023'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        self.dconv = nn.Conv2d(num_heads, num_heads, 3, padding=1, groups=num_heads, bias=False)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        num_tokens = x.shape[1]
        accurate = torch.promote_types(x.dtype, torch.float32)
        q, k = (F.normalize(t.to(accurate), dim=-1, eps=1e-6).to(v.dtype) for t in (q, k))
        scale = num_tokens**-0.5  # of the keys and of the values: the sum would overflow float16
        mean = (scale * k).transpose(-2, -1) @ (scale * v)
        angular = v.to(accurate) / 2 + (q @ mean).to(accurate) * (num_tokens / math.pi)
        out = F.normalize(angular, dim=-1, eps=1e-6).to(v.dtype)
        return self._finish(out, v, hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        q, k = (F.normalize(t, dim=-1, eps=1e-6) for t in (q, k))
        out = v / 2 + q @ (k.mT @ v) / math.pi
        size = out.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return FactoredWeights(
            v,
            lambda out: self._finish(out, v, hw_shape),
            self.dconv.weight[None],
            q=q / (math.pi * size),
            k=k,
            own=1 / (2 * size),
        )

    def _finish(self, out: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.proj(merge_heads(out + self._convolve(v, hw_shape)))

    def _convolve(self, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Every channel of the values (B, heads, N, head_dim) with the kernel of its head."""
        image = v.permute(0, 3, 1, 2).flatten(0, 1).unflatten(2, hw_shape)
        return self.dconv(image).flatten(2).unflatten(0, v.shape[::3]).permute(0, 2, 3, 1)

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        kernel = weights.get('dconv.weight')
        return None if kernel is None else dict(num_heads=kernel.shape[0])

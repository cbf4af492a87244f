"""Rank-augmented linear attention (RALA, CVPR 2025)."""

import torch
from torch import Tensor, nn

from ..layers import convolve_tokens, trunc_normal_
from ..ops import EPSILON, POSITIVE_KERNELS, TINY, merge_heads, split_heads
from ..utils import check_flag
from .base import TokenMixer, check_head_width, token_mixer
from .mlla import pair_size, rotate
from .weights import FactoredWeights, Weights


@token_mixer('rala')
class RALAAttention(TokenMixer):
    """Keys count by their softmax weight under the mean query; the output is gated.

    ``q_i.(w_j k_j) / sum_t q_i.(w_t k_t)`` of ``elu + 1`` features, where w is a softmax over all
    tokens; queries and keys are rotated by row and column in the product but not in the normaliser.
    A 5x5 convolution of the values is added, and a linear gate multiplies the sum.

    Args:
        dim: Channels C, a multiple of ``4 * num_heads`` if ``rotary``.
        num_heads: Number of heads.
        rotary: Rotate queries and keys.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``num_heads``, or 4 times it, does not divide ``dim``, or ``rotary`` is not True
            or False.
    """

    paper = 'RALA, CVPR 2025'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rotary: bool = True,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        check_flag(rotary=rotary)
        if rotary:
            check_head_width(dim, num_heads, 4)
        self.rotary = rotary
        self.qkvo = nn.Linear(dim, 4 * dim)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        trunc_normal_(self.lepe.weight, std=0.02)
        nn.init.zeros_(self.lepe.bias)
        self.proj = nn.Linear(dim, dim)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v, gate = self._features(x)
        out = self.attend(q, k, split_heads(v, self.num_heads), hw_shape)
        return self._finish(out, v, gate, hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v, gate = self._features(x)
        return FactoredWeights(
            split_heads(v, self.num_heads),
            lambda out: self._finish(out, v, gate, hw_shape),
            self.lepe.weight.view(1, self.num_heads, -1, *self.lepe.kernel_size),
            **self.factors(q, k, hw_shape),
        )

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of queries and keys in heads, values and gate (B, N, C)."""
        q, k, v, gate = self.qkvo(x).chunk(4, 2)
        elu = POSITIVE_KERNELS['elu']
        accurate = torch.promote_types(x.dtype, torch.float32)
        q, k = (elu(split_heads(t, self.num_heads).to(accurate)) for t in (q, k))
        return q, k, v, gate

    def _finish(self, out: Tensor, v: Tensor, gate: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.proj((merge_heads(out) + convolve_tokens(self.lepe, v, hw_shape)) * gate)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """All heads before convolution, gate and projection.

        Args:
            q: Features of queries (B, heads, N, head_dim), positive, in at least float32.
            k: Features of keys, likewise.
            v: Values (B, heads, N, head_dim).
            hw_shape: Map size (H, W) in tokens.

        Returns:
            (B, heads, N, head_dim) in the dtype of ``v``.
        """
        score = (k * q.mean(-2, keepdim=True)).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
        k = score.softmax(-2) * k
        k_mean = k.sum(-2, keepdim=True)
        norm = (q * k_mean).sum(-1, keepdim=True) + EPSILON
        size = self.size_of(k_mean)
        q, k = self.turn(q, k, hw_shape)
        scale = k.shape[-2] ** 0.5  # what the keys gain, the values lose
        context = (scale * (k / size)).to(v.dtype).mT @ (v / scale)
        return (q * (size / norm)).to(v.dtype) @ context

    def factors(self, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> dict[str, Tensor]:
        """The weights by which :meth:`attend` attends, as :class:`.FactoredWeights` has them."""
        score = (k * q.mean(-2, keepdim=True)).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
        k = score.softmax(-2) * k
        norm = (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True) + EPSILON
        q, k = self.turn(q, k, hw_shape)
        return dict(q=q / norm, k=k)

    def turn(self, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) rotated, if they are to be."""
        if not self.rotary:
            return q, k
        quarter = q.shape[-1] // 4
        rate = 10000.0 ** -torch.linspace(0, 1, quarter, device=q.device, dtype=q.dtype)
        return rotate(torch.stack([q, k]), hw_shape, rate).unbind(0)

    def size_of(self, k_mean: Tensor) -> Tensor:
        """:func:`.pair_size` of the mean key (B, heads, 1, head_dim)."""
        return pair_size(k_mean) if self.rotary else k_mean.detach().clamp(min=TINY)

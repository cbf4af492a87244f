"""Focused linear attention (FLatten Transformer, ICCV 2023, arXiv 2308.00442)."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import merge_heads, normalised_attention, resize_pos_embed, split_heads
from ..utils import check_positive, check_whole
from .base import QKVMixer, token_mixer
from .weights import Weights, divisive_weights


@token_mixer('focused')
class FocusedAttention(QKVMixer):
    """Divisive linear attention whose features are sharpened by a power, plus a convolution of V.

    Keys get a learned position table, which is resized from ``grid`` to the map.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        grid: Map size (H, W) in tokens that the table is stored for.
        focusing_factor: The power p.
        kernel_size: Side of the depthwise convolution, odd.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: Neither ``grid`` nor ``window_size`` is given, or ``kernel_size`` is even.
    """

    paper = 'FLatten, ICCV 2023'
    heads = 'softmax'
    no_decay = ('scale', 'positional_encoding')

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        grid: tuple[int, int] | None = None,
        focusing_factor: float = 3,
        kernel_size: int = 5,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, grid=grid, window_size=window_size, shift=shift)
        check_positive(focusing_factor=focusing_factor)
        check_whole(kernel_size=kernel_size)
        self.focusing_factor = focusing_factor
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.positional_encoding = nn.Parameter(torch.zeros(1, math.prod(self.table_shape()), dim))
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} must be odd')
        width = dim // num_heads
        self.dwc = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v = self._features(x, hw_shape)
        return self._finish(normalised_attention(q, k, v), v, hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v = self._features(x, hw_shape)
        return divisive_weights(
            q,
            k,
            v,
            finish=lambda out: self._finish(out, v, hw_shape),
            local=self.dwc.weight[None, None, :, 0],
        )

    def _features(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.project(x)
        k = k + resize_pos_embed(self.positional_encoding, self.table_shape(), hw_shape)
        q, k = (split_heads(self.focus(t), self.num_heads) for t in (q, k))
        return q, k, split_heads(v, self.num_heads)

    def _finish(self, out: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.proj(merge_heads(out + self._convolve(v, hw_shape)))

    def _convolve(self, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Every head of the values (B, heads, N, head_dim) as an image, with the same kernels."""
        heads = convolve_tokens(self.dwc, v.flatten(0, 1), hw_shape)
        return heads.unflatten(0, v.shape[:2])

    def focus(self, x: Tensor) -> Tensor:
        """Features (B, N, C) whose directions are sharpened and whose lengths stay.

        In float32, and of channels divided by the largest before the power: half types would
        overflow, and divide zero by zero.
        """
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        x = (F.relu(x) + 1e-6) / F.softplus(self.scale)
        sharp = (x / x.amax(-1, keepdim=True)) ** self.focusing_factor
        return sharp * (x.norm(dim=-1, keepdim=True) / sharp.norm(dim=-1, keepdim=True))

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        if not {'scale', 'positional_encoding', 'dwc.weight'} <= weights.keys():
            return None
        width, _, kernel_size, _ = weights['dwc.weight'].shape
        tokens = weights['positional_encoding'].shape[1]
        side = math.isqrt(tokens)
        grid = (side, side) if side**2 == tokens else None
        heads = weights['scale'].shape[2] // width
        return dict(num_heads=heads, grid=grid, kernel_size=kernel_size)

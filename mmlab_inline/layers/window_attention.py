"""Softmax attention in shifted windows (Swin Transformer, arXiv 2103.14030)."""

import torch
from torch import Tensor, nn

from ..ops import (
    apply_in_windows,
    may_shift,
    relative_position_index,
    shift_mask,
    softmax_attention,
    window_shift,
)
from ..utils import check_positive
from .init import trunc_normal_


class WindowAttention(nn.Module):
    """Window attention with relative position bias; cuts and shifts the windows itself.

    Maps are padded to a multiple of the window. A shifted block does not shift along an axis on
    which the map is a single window.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        window_size: Side of a window in tokens.
        shift: Shift by half a window (odd blocks).

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or a number is not positive.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int = 7, shift: bool = False) -> None:
        super().__init__()
        check_positive(dim=dim, num_heads=num_heads, window_size=window_size)
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide dim={dim}')
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            'relative_position_index', relative_position_index(window_size), persistent=False
        )

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend within windows of a map.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens.

        Returns:
            (B, N, C).
        """
        shift = window_shift(hw_shape, self.window_size) if self.shift else (0, 0)
        mask = shift_mask(hw_shape, self.window_size, shift, x.device) if may_shift(shift) else None
        return apply_in_windows(
            lambda windows: self._attend(windows, mask), x, hw_shape, self.window_size, shift
        )

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        area = self.window_size**2
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B * windows, heads, area, head_dim)
        bias = self.relative_position_bias_table[self.relative_position_index]
        bias = bias.permute(2, 0, 1).to(q.dtype)[None]  # (1, heads, area, area)
        if mask is not None:
            # Windows of one sample stand beside its heads, so that one mask serves every sample.
            bias = bias.masked_fill(mask[:, None], -torch.inf).flatten(0, 1)[None]
            q, k, v = (t.reshape(-1, bias.shape[1], area, t.shape[-1]) for t in (q, k, v))
        out = softmax_attention(q, k, v, bias)
        out = out.reshape(-1, self.num_heads, area, out.shape[-1])
        return self.proj(out.transpose(1, 2).flatten(2))

"""Channels as heads and back."""

from torch import Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, head_dim)."""
    return x.unflatten(2, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, N, head_dim) to (B, N, C)."""
    return x.transpose(1, 2).flatten(2)

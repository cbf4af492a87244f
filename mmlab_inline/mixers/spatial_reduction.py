"""Softmax attention over a reduced map (Pyramid Vision Transformer, arXiv 2102.12122)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import softmax_attention
from ..utils import check_positive


class SpatialReductionAttention(nn.Module):
    """Multi-head softmax attention whose keys and values come from a strided map.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        sr_ratio: Stride of the map that keys and values are taken from. 1: no reduction.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or a number is not positive.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int = 1) -> None:
        super().__init__()
        check_positive(dim=dim, num_heads=num_heads, sr_ratio=sr_ratio)
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide dim={dim}')
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend over a map.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens. A remainder of H or W by ``sr_ratio`` gives no
                keys; a map smaller than ``sr_ratio`` is zero-padded to one key.

        Returns:
            (B, N, C).
        """
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        kv = self.kv(self._reduce(x, hw_shape)).unflatten(2, (2, self.num_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, heads, keys, head_dim)
        out = softmax_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def _reduce(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.sr_ratio == 1:
            return x
        height, width = hw_shape
        x = x.unflatten(1, hw_shape)
        pad_h, pad_w = max(self.sr_ratio - height, 0), max(self.sr_ratio - width, 0)
        if pad_h or pad_w:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        x = self.sr(x.permute(0, 3, 1, 2))
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2))

"""Scaled dot-product softmax attention."""

import torch.nn.functional as F
from torch import Tensor

from .eager import is_transforming
from .exporting import is_exporting


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """PyTorch's fused attention; the same written out where that does not serve.

    It does not in an export, under torch.func and forward mode, and where shapes alone count.
    The fused kernel returns tokens outermost in memory. Exporters that take it apart again do not,
    and the views behind it would not fit.

    PyTorch's fused kernels have no gradients of gradients; it has them within
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        bias: Added to the scaled scores, broadcast to (B, heads, N, M).

    Returns:
        (B, heads, N, head_dim).
    """
    if not (is_exporting() or is_transforming() or q.is_meta):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v

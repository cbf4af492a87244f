"""Scaled dot-product softmax attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager import is_transforming
from .exporting import is_exporting
from .inline_attention import without_autocast

# CUDA's kernels lay heads along an axis of no more programs; batches PyTorch cuts up itself.
_MOST_HEADS = 65535


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """PyTorch's fused attention; the same written out where that does not serve.

    It does not in an export, under torch.func and forward mode, and where shapes alone count.
    The fused kernel returns tokens outermost in memory. Exporters that take it apart again do not,
    and the views behind it would not fit.

    PyTorch's fused kernels have no gradients of gradients; it has them within
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Half types get the keys without their mean, which softmax does not see and which would make
    scores overflow or lose their digits (as in PASA, 2025, with one block).

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        bias: Added to the scaled scores, broadcast to (B, heads, N, M).

    Returns:
        (B, heads, N, head_dim).
    """
    if k.dtype in (torch.float16, torch.bfloat16):
        k = k - k.detach().mean(-2, keepdim=True, dtype=torch.float32).to(k.dtype)
    if not (is_exporting() or is_transforming() or q.is_meta):
        heads = q.shape[1]
        if heads <= _MOST_HEADS:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        bias = None if bias is None else bias.expand(-1, heads, -1, -1)
        parts = [
            softmax_attention(*(None if t is None else t[:, part] for t in (q, k, v, bias)))
            for part in (slice(_MOST_HEADS), slice(_MOST_HEADS, None))
        ]
        return torch.cat(parts, 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def self_adjusted_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax weights times the place of each score between its row's smallest and largest.

    ``softmax(z)_j (z_j - min(z_min, 0)) / (max(z_max, 0) - min(z_min, 0) + 1e-10)`` (Self-Adjust
    Softmax, EMNLP 2025): rows do not sum to one, and gradients pass minimum and maximum. Scores
    are needed, so that nothing fused serves; they are float32 (or float64) throughout.

    Args:
        q: Queries (B, heads, N, head_dim).
        k: Keys (B, heads, M, head_dim).
        v: Values (B, heads, M, head_dim).
        bias: Added to the scaled scores, broadcast to (B, heads, N, M). Where it is -inf a key has
            no weight and is no minimum; every query needs a key without.

    Returns:
        (B, heads, N, head_dim) in the dtype of ``v``.
    """
    accurate = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q):
        scores = (q.to(accurate) * q.shape[-1] ** -0.5) @ k.to(accurate).transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        absent = scores == -torch.inf
        low = scores.masked_fill(absent, torch.inf).amin(-1, keepdim=True).clamp(max=0)
        high = scores.amax(-1, keepdim=True).clamp(min=0)
        place = (scores.masked_fill(absent, 0) - low) / (high - low + 1e-10)
        weights = scores.softmax(-1) * place
    return weights.to(v.dtype) @ v

"""Two linear layers with GELU between, over chunks of tokens that stay in a CPU's cache.

The hidden tokens are 4 to 8 times as wide as the map. As one tensor they are written to memory and
read back, twice, and blocks of that size the C library asks the kernel for anew at each call, page
by page: on 2 cores that takes longer than the arithmetic. Here they never exist as a whole, and
the backward pass computes them again (one matrix product more, of six) instead of keeping them.

Gradients of gradients are those of the plain form.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .second_order import gradients_of_plain_form

# Elements of a chunk's hidden tokens: 2 MB in float32. From 1 to 8 MB the time is the same.
CHUNK_ELEMENTS = 2**19
# Measured on 2 cores: for smaller hidden tokens, computing them again costs what streaming saves.
BIG_BYTES = 16 * 2**20


class _StreamedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
    ) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        for tokens, out_chunk in _chunks(w1, x, out):
            hidden = F.gelu(torch.addmm(b1, tokens, w1.t()))
            torch.addmm(b2, hidden, w2.t(), out=out_chunk)
        ctx.save_for_backward(x, w1, b1, w2, b2)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return tuple(gradients_of_plain_form(_plain, ctx.saved_tensors, grad))
        x, w1, b1, w2, _ = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(t) for t in (w1, b1, w2))
        for tokens, grad_out, grad_tokens in _chunks(w1, x, grad, grad_x):
            raw = torch.addmm(b1, tokens, w1.t())
            hidden = F.gelu(raw)
            grad_w2.addmm_(grad_out.t(), hidden)
            grad_raw = torch.ops.aten.gelu_backward(torch.mm(grad_out, w2, out=hidden), raw)
            grad_w1.addmm_(grad_raw.t(), tokens)
            grad_b1 += grad_raw.sum(0)
            torch.mm(grad_raw, w1, out=grad_tokens)
        return grad_x, grad_w1, grad_b1, grad_w2, grad.flatten(0, -2).sum(0)


def _plain(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


def streamed_mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """``linear(gelu(linear(x, w1, b1)), w2, b2)`` without the hidden tokens as a whole.

    Args:
        x: Tokens (..., C) in float32 or float64, on a CPU, outside autocast.
        w1: (hidden, C).
        b1: (hidden,).
        w2: (C, hidden).
        b2: (C,).

    Returns:
        (..., C).
    """
    return _StreamedMlp.apply(x, w1, b1, w2, b2)


def hidden_tokens_are_big(x: Tensor, hidden: int) -> bool:
    """Whether the hidden tokens of ``x`` (..., C) are big enough to be streamed."""
    return x.numel() // x.shape[-1] * hidden * x.element_size() > BIG_BYTES


def _chunks(w1: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same range of tokens of every tensor."""
    step = max(1, CHUNK_ELEMENTS // w1.shape[0])
    return zip(*(tensor.flatten(0, -2).split(step) for tensor in tensors), strict=True)

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab_inline.ops import self_adjusted_attention, softmax_attention

module = importlib.import_module('mmlab_inline.ops.softmax_attention')


@pytest.mark.parametrize('bias_shape', [None, (1, 7, 4, 5), (2, 1, 4, 5), (1, 1, 1, 5)])
def test_more_heads_than_a_kernel_takes(bias_shape, monkeypatch):
    q, k, v = torch.randn(2, 7, 4, 3), torch.randn(2, 7, 5, 3), torch.randn(2, 7, 5, 3)
    bias = None if bias_shape is None else torch.randn(bias_shape)
    expected = softmax_attention(q, k, v, bias)
    heads = []

    def attend(*args: torch.Tensor, attn_mask: torch.Tensor | None) -> torch.Tensor:
        heads.append(args[0].shape[1])
        return whole(*args, attn_mask=attn_mask)

    whole = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', attend)
    monkeypatch.setattr(module, '_MOST_HEADS', 3)
    torch.testing.assert_close(softmax_attention(q, k, v, bias), expected)
    assert heads == [3, 3, 1]


def self_adjusted(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Row by row, over the keys that it has."""
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype)
    for batch, head, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        row = bias[0, head, i]
        kept = row.isfinite()
        z = k[batch, head, kept] @ q[batch, head, i] * q.shape[-1] ** -0.5 + row[kept]
        low, high = min(z.min(), torch.tensor(0.0)), max(z.max(), torch.tensor(0.0))
        weights = z.softmax(0) * (z - low) / (high - low + 1e-10)
        out[batch, head, i] = weights @ v[batch, head, kept]
    return out


@pytest.mark.parametrize('offset', [-9.0, 0.0, 9.0])
def test_self_adjusted(offset, assert_near):
    q, k, v = torch.randn(3, 2, 3, 7, 4, dtype=torch.float64)
    given = [t.requires_grad_() for t in (q, k, v)]
    bias = torch.randn(1, 3, 7, 7).double() + offset
    bias[0, :, :, 1] = bias[0, 1, 2, 3:] = -torch.inf
    out, expected = self_adjusted_attention(*given, bias), self_adjusted(*given, bias)
    assert_near(out, expected, 1e-12)
    cotangent = torch.randn_like(out)
    pairs = (torch.autograd.grad(y, given, cotangent) for y in (out, expected))
    for actual, wanted in zip(*pairs, strict=True):
        assert_near(actual, wanted, 1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('written_out', [False, True])
def test_what_keys_share_costs_half_types_nothing(dtype, written_out, assert_near):
    """Scores that all keys add the same to, beyond float16 and the digits of bfloat16."""
    q, k, v = (t.to(dtype) for t in torch.randn(3, 2, 3, 50, 16))
    q[..., 0] = 16
    k[..., 0] = 2.0**14
    bias = torch.randn(1, 3, 50, 50).to(dtype)
    exact = softmax_attention(q.double(), k.double(), v.double(), bias.double())
    attend = torch.func.vmap(softmax_attention) if written_out else softmax_attention
    parts = (t[None] if written_out else t for t in (q, k, v, bias))
    out = attend(*parts)
    assert_near(out[0] if written_out else out, exact, 10 * torch.finfo(dtype).eps)


def test_centred_keys_have_the_gradients_of_keys(assert_near):
    q, k, v = torch.randn(3, 2, 3, 50, 16).bfloat16()
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    given = [t.requires_grad_() for t in (q, k, v)]
    cotangent = torch.randn(2, 3, 50, 16)
    for actual, wanted in zip(
        torch.autograd.grad(softmax_attention(*given), given, cotangent.bfloat16()),
        torch.autograd.grad(softmax_attention(*exact), exact, cotangent.double()),
        strict=True,
    ):
        assert_near(actual, wanted, 0.03)

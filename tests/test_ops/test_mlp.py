import pytest
import torch
import torch.nn.functional as F

from mmlab_inline.ops import hidden_tokens_are_big, streamed_mlp
from mmlab_inline.ops.mlp import BIG_BYTES


def draw(dim=6, hidden=24):
    shapes = [(hidden, dim), (hidden,), (dim, hidden), (dim,)]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def plain(x, w1, b1, w2, b2):
    return F.linear(F.gelu(F.linear(x, w1, b1)), w2, b2)


@pytest.mark.parametrize('tokens', [1, 5, 7, 1000])
def test_equals_plain_layers(tokens, monkeypatch, assert_near):
    monkeypatch.setattr('mmlab_inline.ops.mlp.CHUNK_ELEMENTS', 7 * 24)
    x = torch.randn(2, tokens, 6, dtype=torch.float64, requires_grad=True)
    weights = draw()
    cotangent = torch.randn_like(x)
    expected, out = plain(x, *weights), streamed_mlp(x, *weights)
    assert_near(out, expected, 1e-14)
    grads = torch.autograd.grad(out, [x, *weights], cotangent)
    for grad, wanted in zip(
        grads, torch.autograd.grad(expected, [x, *weights], cotangent), strict=True
    ):
        assert_near(grad, wanted, 1e-12)


def test_other_layouts_of_tokens(assert_near):
    weights = draw()
    x = torch.randn(2, 6, 9, dtype=torch.float64).transpose(1, 2).requires_grad_()
    assert_near(streamed_mlp(x, *weights), plain(x, *weights), 1e-14)
    grad = torch.autograd.grad(streamed_mlp(x, *weights).sum(), x)[0]  # an expanded cotangent
    assert_near(grad, torch.autograd.grad(plain(x, *weights).sum(), x)[0], 1e-12)


def test_frozen_weights():
    weights = [weight.detach() for weight in draw()]
    x = torch.randn(1, 9, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: streamed_mlp(x, *weights), x)


def test_keeps_no_hidden_tokens():
    kept = []
    x = torch.randn(1, 500, 6, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        streamed_mlp(x, *draw())
    assert max(tensor.numel() for tensor in kept) == x.numel()


def test_what_is_big():
    limit = BIG_BYTES // 4 // 512
    assert not hidden_tokens_are_big(torch.empty(2, limit // 2, 64), 512)
    assert hidden_tokens_are_big(torch.empty(2, limit // 2 + 1, 64), 512)
    assert hidden_tokens_are_big(torch.empty(2, limit // 4 + 1, 64, dtype=torch.float64), 512)


def test_gradients_of_gradients(monkeypatch):
    monkeypatch.setattr('mmlab_inline.ops.mlp.CHUNK_ELEMENTS', 7 * 8)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(streamed_mlp, (x, *draw(3, 8)))

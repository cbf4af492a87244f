import pytest
import torch

from mmlab_inline.ops import softmax_attention


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], indirect=True)
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

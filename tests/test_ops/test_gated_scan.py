import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab_inline.ops import bidirectional_scan
from mmlab_inline.ops.gated_scan import gated_scan


def recurrence(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """Token after token."""
    state, out = torch.zeros(*k.shape[:-2], k.shape[-1], v.shape[-1], dtype=q.dtype), []
    for i in range(q.shape[-2]):
        state = log_decay[..., i, :, None].exp() * state + k[..., i, :, None] * v[..., i, None, :]
        out.append((q[..., i, None, :] @ state).squeeze(-2))
    return torch.stack(out, dim=-2)


def draw(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Queries, keys, values, and gates that forget anything from 0 to a third at a token."""
    q, k, logits = torch.randn(3, 2, 2, length, 4, dtype=dtype)
    v = torch.randn(2, 2, length, 6, dtype=dtype)
    log_decay = F.logsigmoid(3 * logits) / 16
    return tuple(t.requires_grad_() for t in (q, k, v, log_decay.detach()))


# Below, at and above a chunk (32 tokens) and a group of chunks (64).
@pytest.mark.parametrize('length', [1, 7, 32, 33, 65, 2048, 2111])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_equals_recurrence(length, dtype, tolerance, assert_near):
    given = draw(length, dtype)
    exact = [t.detach().double().requires_grad_() for t in given]
    out, expected = gated_scan(*given), recurrence(*exact)
    assert_near(out, expected, tolerance)
    cotangent = torch.randn_like(expected)
    gradients = torch.autograd.grad(out, given, cotangent.to(dtype))
    for actual, wanted in zip(
        gradients, torch.autograd.grad(expected, exact, cotangent), strict=True
    ):
        assert_near(actual, wanted, 10 * tolerance)


def test_both_directions(assert_near):
    q, k, v, forward = draw(70)
    backward = F.logsigmoid(torch.randn_like(forward)) / 16
    there = recurrence(q, k, v, forward)
    back = recurrence(*(t.flip(-2) for t in (q, k, v, backward))).flip(-2)
    out = bidirectional_scan(q, k, v, (forward, backward))
    assert_near(out, (there + back) / 2, 1e-12)
    turned = (t.flip(-2) for t in (q, k, v))
    turned = bidirectional_scan(*turned, (backward.flip(-2), forward.flip(-2)))
    assert_near(turned.flip(-2), out, 1e-12)


@pytest.mark.parametrize('logit', [-200.0, -80.0, 0.0, 80.0])
@pytest.mark.parametrize('share', [0.5, 1.0])
def test_any_gate_is_finite(logit, share):
    q, k, v, log_decay = draw(3000, torch.float32)
    shut = torch.rand(log_decay.shape) < share
    logits = torch.where(shut, logit, 0.0).requires_grad_()
    out = gated_scan(q, k, v, F.logsigmoid(logits) / 16)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v, logits))
    assert all(t.isfinite().all() for t in (out, *gradients))
    exact = recurrence(*(t.double() for t in (q, k, v)), F.logsigmoid(logits.double()) / 16)
    # Gates that forget faster than the floor leave a hundredth.
    assert (out - exact).abs().max() / exact.abs().max() < (2e-2 if logit == -200 else 1e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype, assert_near):
    q, k, v, forward = (t.detach().to(dtype) for t in draw(5000))
    exact = bidirectional_scan(q.double(), k.double(), v.double(), (forward.double(),) * 2)
    assert_near(bidirectional_scan(q, k, v, (forward, forward)), exact, 1e-5)
    with torch.autocast('cpu', dtype):
        assert_near(bidirectional_scan(q, k, v, (forward, forward)), exact, 1e-5)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that an operation puts out, and how many operations run."""

    elements = operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        self.operations += 1
        return out


def test_neither_memory_nor_operations_grow_faster_than_the_tokens():
    seen = []
    for length in (4096, 16 * 4096):
        q, k, v, log_decay = (t[0, 0].detach() for t in draw(length, torch.float32))
        with Largest() as largest:
            gated_scan(q, k, v, log_decay)
        seen.append(largest)
    assert seen[1].elements <= 16 * seen[0].elements
    assert seen[1].operations == seen[0].operations

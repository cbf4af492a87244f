import pytest
import torch

from mmlab_inline.layers import Mlp


@pytest.mark.parametrize('big', [False, True])
def test_equals_timm(big, monkeypatch, assert_near):
    timm = pytest.importorskip('timm')
    calls = []
    real = Mlp.forward.__globals__['streamed_mlp']
    monkeypatch.setitem(
        Mlp.forward.__globals__, 'streamed_mlp', lambda *args: calls.append(1) or real(*args)
    )
    monkeypatch.setattr('mmlab_inline.ops.mlp.BIG_BYTES', 0 if big else 2**30)
    own, reference = Mlp(8, 32), timm.layers.Mlp(8, 32)
    reference.load_state_dict(own.state_dict())
    x = torch.randn(2, 10, 8)
    assert_near(own(x), reference(x), 1e-6)
    assert bool(calls) == big
    with torch.autocast('cpu', torch.bfloat16):
        assert own(x).dtype is torch.bfloat16
    assert len(calls) == big


def test_hooks_run(monkeypatch):
    monkeypatch.setattr('mmlab_inline.ops.mlp.BIG_BYTES', 0)
    mlp, calls = Mlp(8, 32), []
    for layer in (mlp.fc1, mlp.fc2):
        layer.register_forward_hook(lambda *args: calls.append(1))
    mlp(torch.randn(2, 10, 8))
    assert len(calls) == 2

"""Values and output projection folded into the context, against the layers called one by one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab_inline import build_attention

CHOICES = [
    'efficient',
    *(dict(type='linear', kernel=kernel) for kernel in ('relu', 'elu', 'exp')),
    dict(type='linear', window_size=8),
]


class CountFolded(TorchDispatchMode):
    """Counts products with one C x C matrix a sample, of which the layers have none."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.baddbmm.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('qkv', ['separate', 'joint'])
@pytest.mark.parametrize('choice', CHOICES, ids=str)
def test_folded_is_equal(choice, qkv, randomised, assert_near):
    mixer = randomised(build_attention(choice, 24, 3, qkv=qkv)).double().eval()
    x = torch.randn(2, 9 * 8, 24, dtype=torch.float64)
    expected = mixer(x, (9, 8))  # with gradients: by the layers
    with torch.no_grad(), CountFolded() as folded:
        out = mixer(x, (9, 8))
    assert folded.count == 1
    assert_near(out, expected, 1e-12)


def test_not_where_layers_are_replaced_or_tokens_are_few():
    mixer = build_attention('efficient', 24, 3).eval()
    with torch.no_grad(), CountFolded() as folded:
        mixer(torch.randn(1, 16, 24), (4, 4))
        mixer.proj.register_forward_hook(lambda *_: None)
        mixer(torch.randn(1, 64, 24), (8, 8))
    assert folded.count == 0

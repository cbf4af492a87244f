import math

import pytest
import timm.layers
import torch

from mmlab_inline.layers.drop_path import DropPath
from mmlab_inline.layers.init import trunc_normal_


@pytest.mark.parametrize('std', [0.02, 1.0, 3.0])
def test_a_seed_means_the_values_that_it_means_in_timm(std):
    torch.manual_seed(0)
    expected = timm.layers.trunc_normal_(torch.empty(64, 50), std=std)
    torch.manual_seed(0)
    values = torch.empty(64, 50, requires_grad=True)
    assert trunc_normal_(values, std=std) is values
    if std == 0.02:  # which is what the backbones take
        assert torch.equal(values, expected)
    assert torch.allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert values.abs().max() <= 2


def test_distribution_is_cut_off():
    torch.manual_seed(0)
    values = trunc_normal_(torch.empty(200000), std=1.0)
    # Of a normal distribution between -2 and 2.
    assert values.std().item() == pytest.approx(math.sqrt(0.7737), abs=0.005)
    assert values.mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize('shape', [(9, 5, 4), (9, 3)])
@pytest.mark.parametrize('rate', [0.0, 0.3, 0.9])
def test_drop_path_is_timms(shape, rate):
    ours, other, x = DropPath(rate), timm.layers.DropPath(rate), torch.randn(shape)
    torch.manual_seed(0)
    expected = other(x)
    torch.manual_seed(0)
    assert torch.equal(ours(x), expected)
    assert torch.equal(ours.eval()(x), x)


def test_drop_path_keeps_the_expectation():
    torch.manual_seed(0)
    out = DropPath(0.25)(torch.ones(20000, 1))
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.02)

import pytest
import torch
from torch import nn

from mmlab_inline.layers import convolve_tokens


@pytest.mark.parametrize('train', [True, False])
def test_gradients_behind_a_batch_norm(train):
    """Those of one image are half of those of the same image twice; tokens straight from a map."""
    layer = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)).double().train(train)
    x, direction = torch.randn(2, 1, 8, 54, dtype=torch.float64).mT
    once, twice = (
        torch.autograd.grad(
            (convolve_tokens(layer, image, (6, 9)).softmax(2) * direction).sum(),
            layer.parameters(),
        )
        for image in (x, x.repeat(2, 1, 1))
    )
    for one, two in zip(once, twice, strict=True):
        assert torch.allclose(2 * one, two, rtol=1e-10, atol=1e-12)

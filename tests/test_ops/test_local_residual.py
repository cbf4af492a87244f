import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab_inline.ops import dynamic_depthwise3x3

METHODS = ('auto', 'sample', 'group', 'shift')


def naive(
    x: Tensor, kernel: Tensor, hw_shape: tuple[int, int], bias: Tensor | None = None
) -> Tensor:
    height, width = hw_shape
    outs = []
    for sample in range(len(x)):
        image = torch.stack([row.T for row in x[sample].split(width)], dim=1)  # (C, H, W)
        out = F.conv2d(
            image[None],
            kernel[sample][:, None],
            None if bias is None else bias[sample],
            padding=1,
            groups=x.shape[2],
        )
        outs.append(out[0].permute(1, 2, 0).reshape(height * width, -1))
    return torch.stack(outs)


# 17 samples are more than are looped over.
@pytest.mark.parametrize('batch', [1, 3, 17])
@pytest.mark.parametrize('hw_shape', [(1, 1), (1, 7), (5, 1), (2, 2), (9, 14), (13, 11)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_methods_equal_a_convolution_per_sample(hw_shape, batch, with_bias, assert_near):
    channels, (height, width) = 5, hw_shape
    x = torch.randn(batch, height * width, channels).double().requires_grad_()
    kernel = torch.randn(batch, channels, 3, 3).double().requires_grad_()
    bias = torch.randn(batch, channels).double().requires_grad_() if with_bias else None
    leaves = [leaf for leaf in (x, kernel, bias) if leaf is not None]
    cotangent = torch.randn(batch, height * width, channels).double()

    expected = naive(x, kernel, hw_shape, bias)
    expected_grads = torch.autograd.grad(expected, leaves, cotangent)
    for method in METHODS:
        out = dynamic_depthwise3x3(x, kernel, hw_shape, bias, method)
        assert_near(out, expected, 1e-12, method)
        grads = torch.autograd.grad(out, leaves, cotangent)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            assert_near(grad, expected_grad, 1e-12, f'{method} gradient')


def test_empty_batch():
    x = torch.empty(0, 6, 4, requires_grad=True)
    kernel = torch.empty(0, 4, 3, 3, requires_grad=True)
    out = dynamic_depthwise3x3(x, kernel, (2, 3), torch.empty(0, 4))
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert kernel.grad.shape == kernel.shape


def test_orientation():
    """A kernel's top row looks at the row above; rows and columns must not be swapped."""
    x = torch.arange(6.0).view(1, 6, 1)  # the map [[0, 1, 2], [3, 4, 5]]
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[..., 0, 1] = 1
    for method in METHODS:
        out = dynamic_depthwise3x3(x, kernel, (2, 3), method=method)
        assert out.flatten().tolist() == [0, 0, 0, 0, 1, 2]


@pytest.mark.parametrize('method', METHODS)
def test_computes_in_the_dtype_of_x(method):
    x = torch.randn(2, 6, 4, dtype=torch.bfloat16)
    out = dynamic_depthwise3x3(x, torch.randn(2, 4, 3, 3), (2, 3), torch.randn(2, 4), method)
    assert out.dtype is torch.bfloat16


def test_unknown_method():
    x, kernel = torch.randn(1, 4, 2), torch.randn(1, 2, 3, 3)
    with pytest.raises(ValueError, match=r"'samples'.*'sample', 'group' or 'shift'"):
        dynamic_depthwise3x3(x, kernel, (2, 2), method='samples')


@pytest.mark.parametrize('method', METHODS)
def test_gradients_of_gradients(method):
    x, kernel, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 6, 2), (2, 2, 3, 3), (2, 2))
    )

    def convolve(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return dynamic_depthwise3x3(x, kernel, (2, 3), bias, method)

    assert torch.autograd.gradgradcheck(convolve, (x, kernel, bias))

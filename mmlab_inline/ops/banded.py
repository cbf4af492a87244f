"""The fast form's two passes over the map, in bands of rows that stay in a CPU's cache.

On a CPU, a tensor of tens of megabytes costs more to allocate (the kernel maps it page by page,
each time anew) and to fetch from memory than to compute. Here nothing as long as the map is
allocated but the results, and nothing but the input is kept for the backward pass, which computes
the values again band by band.

Gradients of gradients are those of plain operations.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .eager import runs_eagerly_on_cpu
from .local_residual import dynamic_depthwise3x3
from .second_order import gradients_of_plain_form

# Elements of one band: 1 MB in float32. From 1 to 4 MB the time is the same.
BAND_ELEMENTS = 2**18
# A band reads one row more on either side: thin bands of wide maps would compute too much twice.
MIN_BAND_ROWS = 8

_convolution_backward = torch.ops.aten.convolution_backward


class _CentredGram(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, x_mean: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[2]
        gram = x.new_zeros(x.shape[0], channels, channels)
        left, right = slice(channels // 2), slice(channels // 2, channels)
        for sample, chunk in _chunks(x):
            centred = x[sample, chunk] - x_mean[sample]
            # Three quarters of a symmetric matrix are enough.
            for rows, columns in ((left, left), (left, right), (right, right)):
                block = gram[sample, rows, columns]
                block.addmm_(centred[:, rows].t(), centred[:, columns], alpha=1 / x.shape[1])
        gram[:, right, left] = gram[:, left, right].mT
        ctx.save_for_backward(x, x_mean)
        return x, gram

    @staticmethod
    def backward(
        ctx: FunctionCtx, grad_x: Tensor, grad_gram: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        if torch.is_grad_enabled():
            grads = (grad_x, grad_gram)
            return tuple(gradients_of_plain_form(_plain_gram, ctx.saved_tensors, grads))
        x, x_mean = ctx.saved_tensors
        weight = (grad_gram + grad_gram.mT) / x.shape[1]
        # What takes this x is the only one to: the gradient is nobody else's.
        for sample, chunk in _chunks(x):
            grad_x[sample, chunk].addmm_(x[sample, chunk] - x_mean[sample], weight[sample])
        # The mean gets none: sum_i (x_i - mean) is zero.
        return grad_x, None


class _Banded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        matrix: Tensor,
        bias: Tensor,
        v_weight: Tensor,
        v_bias: Tensor,
        local_kernel: Tensor,
        hw_shape: tuple[int, int],
        projection: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        out = torch.empty_like(x)
        for sample, band, halo, inner in _bands(x, hw_shape):
            v = torch.addmm(v_bias, x[sample, halo], v_weight.t())
            kernel = local_kernel[sample].unsqueeze(1)
            local = _depthwise(_image(v, hw_shape[1]), kernel, bias[sample])
            local, out_band = _tokens(local)[inner], out[sample, band]
            if projection is None:
                torch.addmm(local, x[sample, band], matrix[sample], out=out_band)
            else:
                attended = torch.addmm(local, x[sample, band], matrix[sample])
                torch.addmm(projection[1], attended, projection[0].t(), out=out_band)
        ctx.save_for_backward(x, matrix, bias, v_weight, v_bias, local_kernel)
        ctx.hw_shape = hw_shape
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            plain = partial(_plain_product, hw_shape=ctx.hw_shape)
            return *gradients_of_plain_form(plain, ctx.saved_tensors, grad), None, None
        x, matrix, _, v_weight, v_bias, local_kernel = ctx.saved_tensors
        grad = grad.contiguous()
        width = ctx.hw_shape[1]
        grad_x = torch.empty_like(x)
        grad_matrix, grad_kernel = torch.zeros_like(matrix), torch.zeros_like(local_kernel)
        grad_v_weight, grad_v_bias = torch.zeros_like(v_weight), torch.zeros_like(v_bias)
        for sample, band, halo, inner in _bands(x, ctx.hw_shape):
            kernel = local_kernel[sample].unsqueeze(1)
            v = torch.addmm(v_bias, x[sample, halo], v_weight.t())
            # Of v's gradient the rows inside are whole, of the kernel's only the outputs inside
            # count; hence one call for each.
            around = grad[sample, halo]
            grad_v = _depthwise(_image(around, width), kernel.flip(2, 3))
            grad_v = _tokens(grad_v)[inner]
            within = torch.zeros_like(around)
            within[inner] = grad[sample, band]
            grad_kernel[sample] += _depthwise_weight_grad(
                _image(within, width), _image(v, width), kernel
            )
            grad_matrix[sample].addmm_(x[sample, band].t(), grad[sample, band])
            grad_v_weight.addmm_(grad_v.t(), x[sample, band])
            grad_v_bias += grad_v.sum(0)
            part = grad_x[sample, band]
            torch.mm(grad[sample, band], matrix[sample].t(), out=part)
            part.addmm_(grad_v, v_weight)
        grads = (grad_x, grad_matrix, grad.sum(1), grad_v_weight, grad_v_bias, grad_kernel)
        return *grads, None, None


def _plain_gram(x: Tensor, x_mean: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - x_mean
    return x, centred.mT @ centred / x.shape[1]


def _plain_product(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor,
    v_weight: Tensor,
    v_bias: Tensor,
    local_kernel: Tensor,
    hw_shape: tuple[int, int],
) -> Tensor:
    v = F.linear(x, v_weight, v_bias)
    return torch.baddbmm(dynamic_depthwise3x3(v, local_kernel, hw_shape, bias), x, matrix)


def centred_gram(x: Tensor, x_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Token covariance, on a CPU in bands: nothing as long as the map is allocated or kept.

    Args:
        x: Tokens (B, N, C).
        x_mean: Their mean (B, 1, C), in at least float32.

    Returns:
        ``x``, for one product only, so that the gradients of both add up in one tensor; and
        ``(x - mean)^T (x - mean) / N`` (B, C, C).
    """
    return (_CentredGram.apply if runs_eagerly_on_cpu(x) else _plain_gram)(x, x_mean)


def attend_in_bands(
    x: Tensor,
    x_mean: Tensor,
    fold: Callable[[Tensor], tuple[Tensor, Tensor]],
    value: tuple[Tensor, Tensor],
    local_kernel: Tensor,
    hw_shape: tuple[int, int],
    projection: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``x @ matrix + bias + depthwise3x3(x @ weight^T + bias of the value)``, zero padding 1.

    Args:
        x: Tokens (B, N, C).
        x_mean: Their mean (B, 1, C).
        fold: From the token covariance before normalisation by spreads,
            ``(x - mean)^T (x - mean) / N`` of shape (B, C, C), to the matrix of each sample
            (B, C, C) and its bias (B, C).
        value: Weight (C, C) as in ``F.linear``, and bias (C,).
        local_kernel: (B, C, 3, 3).
        hw_shape: Map size (H, W) in tokens, H * W == N.
        projection: Weight (C, C) and bias (C,) of a linear layer to apply to the result while it
            is in the cache; only where no gradients are recorded.

    Returns:
        (B, N, C).
    """
    # The second pass takes the first one's x, so that the gradients of both add up in one tensor.
    x, gram = _CentredGram.apply(x, x_mean)
    return _Banded.apply(x, *fold(gram), *value, local_kernel, hw_shape, projection)


def _chunks(x: Tensor) -> Iterator[tuple[int, slice]]:
    """Samples, and ranges of tokens."""
    num_samples, num_tokens, channels = x.shape
    step = max(1, BAND_ELEMENTS // channels)
    for sample in range(num_samples):
        for start in range(0, num_tokens, step):
            yield sample, slice(start, start + step)


def _bands(x: Tensor, hw_shape: tuple[int, int]) -> Iterator[tuple[int, slice, slice, slice]]:
    """Samples, and ranges of tokens: a band, with a row around it, and it within that range."""
    num_samples, _, channels = x.shape
    height, width = hw_shape
    step = max(MIN_BAND_ROWS, BAND_ELEMENTS // (width * channels))
    for sample in range(num_samples):
        for top in range(0, height, step):
            bottom = min(top + step, height)
            above, below = max(top - 1, 0), min(bottom + 1, height)
            yield (
                sample,
                slice(top * width, bottom * width),
                slice(above * width, below * width),
                slice((top - above) * width, (bottom - above) * width),
            )


def _image(tokens: Tensor, width: int) -> Tensor:
    """Tokens (N, C) as a channels-last image (1, C, H, W)."""
    # A view from (N, C) to (1, H, W, C) keeps the batch stride by which oneDNN knows the layout.
    return tokens.view(1, -1, width, tokens.shape[1]).permute(0, 3, 1, 2)


def _tokens(image: Tensor) -> Tensor:
    return image[0].permute(1, 2, 0).flatten(0, 1)


def _depthwise(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(image, kernel, bias, padding=1, groups=image.shape[1])


def _depthwise_weight_grad(grad: Tensor, image: Tensor, kernel: Tensor) -> Tensor:
    channels = image.shape[1]
    return _convolution_backward(
        grad,
        image,
        kernel,
        None,
        [1, 1],
        [1, 1],
        [1, 1],
        False,
        [0, 0],
        channels,
        [False, True, False],
    )[1].squeeze(1)

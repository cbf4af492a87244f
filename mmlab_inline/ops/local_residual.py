"""Depthwise 3x3 convolution whose kernels differ from sample to sample.

It is the local residual of InLine attention (arXiv 2412.06590, sec. 4.2).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting

# Above this many samples (windows, mostly) one grouped convolution beats a loop over samples.
_MAX_LOOPED_SAMPLES = 16


def dynamic_depthwise3x3(
    x: Tensor,
    kernel: Tensor,
    hw_shape: tuple[int, int],
    bias: Tensor | None = None,
    method: str = 'auto',
    class_token: bool = False,
) -> Tensor:
    """Convolve each sample's channels with kernels of their own; zero padding 1, stride 1.

    Args:
        x: Tokens (B, N, C), row-major over the map: a channels-last image, never copied on CPU.
        kernel: (B, C, 3, 3); cast to the dtype of ``x``.
        hw_shape: Map size (H, W) in tokens, H * W == N.
        bias: Added per sample and channel, (B, C).
        method: ``'sample'``: a channels-last convolution per sample; ``'group'``: one convolution
            with B * C groups; ``'shift'``: nine shifted multiplies, made of elementwise
            operations only, for any batch size in one graph; ``'auto'``: the cheaper of the first
            two, in an export and for an empty batch ``'shift'``.
        class_token: A token before those of the map, N == 1 + H * W, gets nothing but the bias.

    Returns:
        (B, N, C) in the dtype of ``x``.
    """
    if class_token:
        local = dynamic_depthwise3x3(x[:, 1:], kernel, hw_shape, bias, method)
        # A length by len() would be a number in an export, and fix the batch.
        first = torch.zeros_like(x[:, :1]) if bias is None else bias[:, None].to(x.dtype)
        return torch.cat((first, local), 1)
    if method == 'auto':
        if is_exporting() or not len(x):
            method = 'shift'
        else:
            loop = x.device.type == 'cpu' and len(x) <= _MAX_LOOPED_SAMPLES
            method = 'sample' if loop else 'group'
    if method not in _METHODS:
        raise ValueError(f"unknown method {method!r}: choose 'auto', 'sample', 'group' or 'shift'")
    image = x.unflatten(1, hw_shape).permute(0, 3, 1, 2)  # (B, C, H, W) view, channels last
    bias = None if bias is None else bias.to(x.dtype)
    # One rounding less inside the convolution; inductor (torch 2.12) cannot lower it there.
    inside = None if torch.compiler.is_compiling() or method == 'shift' else bias
    out = _METHODS[method](image, kernel.to(x.dtype), inside)
    if bias is not None and inside is None:
        out = out + bias[:, :, None, None]
    return out.flatten(2).transpose(1, 2)


def _per_sample(image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    biases = [None] * len(image) if bias is None else bias
    return torch.cat(
        [
            F.conv2d(one, own.unsqueeze(1), add, padding=1, groups=len(own))
            for one, own, add in zip(image.split(1), kernel, biases, strict=True)
        ]
    )


def _in_groups(image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    groups = image.shape[0] * image.shape[1]
    bias = None if bias is None else bias.flatten()
    merged = image.reshape(1, groups, *image.shape[2:])
    out = F.conv2d(merged, kernel.flatten(0, 1).unsqueeze(1), bias, padding=1, groups=groups)
    return out.view(image.shape)


def _shifted(image: Tensor, kernel: Tensor, bias: None) -> Tensor:
    height, width = image.shape[2:]
    padded = F.pad(image, (1, 1, 1, 1))
    return sum(
        padded[:, :, row : row + height, col : col + width] * kernel[:, :, row, col, None, None]
        for row in range(3)
        for col in range(3)
    )


_METHODS = {'sample': _per_sample, 'group': _in_groups, 'shift': _shifted}

"""Predictor of InLine attention's 3x3 local residual (arXiv 2412.06590, sec. 4.2)."""

import torch
from torch import Tensor, nn

from ..ops import without_autocast
from .plain import is_plain


class LocalKernels(nn.Sequential):
    """Depthwise 3x3 kernels predicted from the mean token, in groups of channels.

    Args:
        dim: Channels C.
        num_heads: Groups of both layers.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(
            nn.Conv1d(dim, dim, 1, groups=num_heads),
            nn.GELU(),
            nn.Conv1d(dim, 9 * dim, 1, groups=num_heads),
        )

    def forward(self, mean: Tensor) -> Tensor:
        """Mean tokens (B, C) to kernels (B, C, 3, 3) in the dtype of the weights."""
        first, gelu, second = self
        channels = mean.shape[1]
        # Channel-major: nine consecutive outputs belong to one channel.
        if mean.is_meta or not (is_plain(first, nn.Conv1d) and is_plain(second, nn.Conv1d)):
            return second(gelu(first(mean[..., None]))).reshape(-1, channels, 3, 3)
        # (heads, B, head_dim). With so little to compute, autocast's copies would be most of it.
        mean = mean.to(first.weight.dtype).unflatten(1, (first.groups, -1)).transpose(0, 1)
        with without_autocast(mean):
            kernels = _grouped_linear(second, gelu(_grouped_linear(first, mean)))
        return kernels.transpose(0, 1).reshape(-1, channels, 3, 3)


def _grouped_linear(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A grouped convolution over one token as a batched product, (groups, B, C / groups)."""
    weight = conv.weight.squeeze(2).unflatten(0, (conv.groups, -1))
    return torch.baddbmm(conv.bias.view(conv.groups, 1, -1), x, weight.transpose(1, 2))

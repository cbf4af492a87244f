"""Convolutions of tokens, which stay where they are in memory."""

from torch import Tensor, nn


def convolve_tokens(layer: nn.Module, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Convolve tokens (B, N, C) of an (H, W) map as a channels-last image.

    Args:
        layer: A convolution, or several, of stride 1, padded so that the map keeps its size.
        x: Tokens (B, N, C), row-major over the map.
        hw_shape: Map size (H, W) in tokens, H * W == N.

    Returns:
        (B, N, out_channels).
    """
    image = layer(x.unflatten(1, hw_shape).permute(0, 3, 1, 2))
    # Not flatten(2).transpose(1, 2): behind it BatchNorm's gradient is wrong on a CPU (torch 2.12,
    # batch 1).
    return image.permute(0, 2, 3, 1).flatten(1, 2)

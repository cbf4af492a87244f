"""From images to tokens, and from tokens to fewer tokens.

Sizes that do not divide are padded with zeros at the bottom and right, so that the map is
ceil(H / stride) x ceil(W / stride).
"""

import warnings
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..ops import pad_to_multiple
from .batch_norm import build_batch_norm
from .init import init_conv


def check_image(image: Tensor, channels: int) -> None:
    """Refuse what is no batch of images, and say what the older exporter of ONNX does.

    Raises:
        ValueError: It has no batch dimension, or too many others.
    """
    if image.ndim != 4:
        raise ValueError(
            f'images must be (B, {channels}, H, W), these are '
            f'{tuple(image.shape)}' + '; pass image[None]' * (image.ndim == 3)
        )
    if torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        warnings.warn(
            'torch.onnx.export(dynamo=False) fixes batch and size of the example, whatever '
            'dynamic_axes says; tools/export.py exports any',
            stacklevel=3,
        )


class PatchEmbed(nn.Module):
    """Strided convolution, and LayerNorm.

    Args:
        in_channels: Channels of the image or map.
        dim: Channels C of the tokens.
        patch_size: Side of a patch in pixels, and the stride.
        norm: Whether there is the norm.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm: bool = True) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-5) if norm else nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Embed an image (B, C0, H0, W0).

        Returns:
            Tokens (B, N, C) and their map size (H, W).

        Raises:
            ValueError: It has no batch dimension, or too many others.
        """
        check_image(image, self.proj.in_channels)
        # Channels last makes the tokens a view of what the convolution puts out.
        x = image.permute(0, 2, 3, 1).contiguous()
        x = self.proj(pad_to_multiple(x, self.patch_size).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x.flatten(1, 2)), (x.shape[1], x.shape[2])


class OverlapEmbed(nn.Sequential):
    """Strided convolution of overlapping patches, and LayerNorm (CSWin Transformer).

    Args:
        in_channels: Channels of the image or map.
        dim: Channels C of the tokens.
        patch_size: Side of a patch in pixels.
        stride: From one patch to the next.
        padding: Of the convolution; the map has ceil(H / stride) rows.
        names: Of convolution and norm.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        stride: int,
        padding: int,
        names: tuple[str, str] = ('conv', 'norm'),
    ) -> None:
        conv = nn.Conv2d(in_channels, dim, patch_size, stride, padding)
        layers = (conv, nn.LayerNorm(dim, eps=1e-5))
        super().__init__(OrderedDict(zip(names, layers, strict=True)))

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """As :meth:`PatchEmbed.forward`."""
        conv, norm = self
        check_image(image, conv.in_channels)
        x = pad_to_multiple(image.permute(0, 2, 3, 1).contiguous(), conv.stride[0])
        x = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return norm(x.flatten(1, 2)), (x.shape[1], x.shape[2])


class PatchMerging(nn.Module):
    """Halve the map and double the channels (Swin Transformer, arXiv 2103.14030, sec. 3.1).

    Args:
        dim: Channels C of the incoming tokens; 2 C go out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=1e-5)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Merge tokens (B, N, C) of an (H, W) map two by two.

        Returns:
            Tokens (B, ceil(H / 2) * ceil(W / 2), 2 C) and their map size.
        """
        x = pad_to_multiple(x.unflatten(1, hw_shape), 2)
        # Neighbours (row, column) in the order (0, 0), (1, 0), (0, 1), (1, 1).
        x = torch.cat([x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x.flatten(1, 2))), (x.shape[1], x.shape[2])


class ConvEmbed(nn.Module):
    """Two strided 3x3 convolutions with BatchNorm, ReLU between, then LayerNorm (L2ViT).

    Args:
        in_channels: Channels of the image.
        dim: Channels C of the tokens; half as many between the convolutions.
        norm_cfg: As :func:`.build_batch_norm` takes it.
    """

    def __init__(self, in_channels: int, dim: int, norm_cfg: Mapping) -> None:
        super().__init__()
        layers = nn.Sequential(
            init_conv(nn.Conv2d(in_channels, dim // 2, 3, 2, 1)),
            build_batch_norm(norm_cfg, dim // 2),
            nn.ReLU(),
            init_conv(nn.Conv2d(dim // 2, dim, 3, 2, 1)),
            build_batch_norm(norm_cfg, dim),
        )
        self.proj = nn.Sequential(OrderedDict(proj=layers))  # the released names
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """As :meth:`PatchEmbed.forward`, with patches of 4 pixels."""
        check_image(image, self.proj.proj[0].in_channels)
        x = image.permute(0, 2, 3, 1).contiguous()
        x = self.proj(pad_to_multiple(x, 4).permute(0, 3, 1, 2))
        # Gradients come back as channels last, too. Behind flatten(2).transpose(1, 2) of a map that
        # is not, PyTorch's BatchNorm on the CPU silently makes wrong ones of them at batch 1.
        x = x.permute(0, 2, 3, 1)
        return self.norm(x.flatten(1, 2)), (x.shape[1], x.shape[2])


class ConvMerging(nn.Module):
    """LayerNorm, then a 2x2 convolution with stride 2 (L2ViT).

    Args:
        dim: Channels C of the incoming tokens.
        out_dim: Channels of the outgoing ones.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.proj = init_conv(nn.Conv2d(dim, out_dim, 2, 2))

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """As :meth:`PatchMerging.forward`."""
        x = pad_to_multiple(self.norm(x).unflatten(1, hw_shape), 2).permute(0, 3, 1, 2)
        x = self.proj(x).permute(0, 2, 3, 1)
        return x.flatten(1, 2), (x.shape[1], x.shape[2])

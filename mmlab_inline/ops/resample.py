"""Resizing and pooling of maps as products with small matrices.

They are exact, deterministic in their backward pass, and plain products for any exporter.
"""

import torch
from torch import Tensor


def resize_map(x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Resize a map bilinearly (align_corners False).

    Args:
        x: (..., H, W).
        hw_shape: Wanted (H', W').

    Returns:
        (..., H', W'); the same numbers where the sizes are equal.
    """
    height, width = hw_shape
    return _transform(x, _resizing(x.shape[-2], height, x), _resizing(x.shape[-1], width, x))


def pool_map(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean over the cells of a grid, as ``torch.nn.functional.adaptive_avg_pool2d`` cuts them.

    Args:
        x: (..., H, W).
        cells: Rows and columns of the grid; more than H or W give cells that overlap.

    Returns:
        (..., rows, columns).
    """
    rows, columns = cells
    return _transform(x, _pooling(x.shape[-2], rows, x), _pooling(x.shape[-1], columns, x))


def _transform(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    if x.is_meta:  # counts of a model's cost leave out resizing and pooling
        return x.new_empty(*x.shape[:-2], len(rows), len(columns))
    return rows @ x @ columns.transpose(-2, -1)


def _resizing(size: int, wanted: int, like: Tensor) -> Tensor:
    """(wanted, size) matrix."""
    places = torch.arange(wanted, device=like.device, dtype=torch.float64)
    places = ((places + 0.5) * (size / wanted) - 0.5).clamp(0, size - 1)
    distance = places[:, None] - torch.arange(size, device=like.device, dtype=torch.float64)
    return (1 - distance.abs()).clamp(min=0).to(like.dtype)


def _pooling(size: int, cells: int, like: Tensor) -> Tensor:
    """(cells, size) matrix."""
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(size, device=like.device)
    start, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    inside = (place >= start) & (place < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)

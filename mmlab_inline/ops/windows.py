"""Cutting token maps into square windows (Swin Transformer, arXiv 2103.14030, sec. 3.2)."""

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .eager import is_capturing, is_faking, is_transforming
from .exporting import is_exporting


def apply_in_windows(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    hw_shape: tuple[int, int],
    window_size: int,
    shift: tuple[int, int] = (0, 0),
) -> Tensor:
    """Apply a function to every window of a map.

    The map is padded with zeros at the bottom and right to a multiple of the window, rolled up
    and left by ``shift``, cut; and put together, rolled back and cropped afterwards.

    Args:
        fn: Maps windows (B * windows, window_size ** 2, C) to as many tokens. Windows of one
            sample are consecutive, row-major.
        x: Tokens (B, N, C).
        hw_shape: Map size (H, W) in tokens.
        window_size: Side of a window in tokens.
        shift: Cyclic shift (rows, columns) in tokens.

    Returns:
        (B, N, C).
    """
    batch, num_tokens, channels = x.shape
    height, width = hw_shape
    x = pad_to_multiple(x.view(batch, height, width, channels), window_size)
    padded_h, padded_w = x.shape[1:3]
    rows, cols = padded_h // window_size, padded_w // window_size
    if may_shift(shift):
        x = _roll(x, (-shift[0], -shift[1]))
    x = x.view(batch, rows, window_size, cols, window_size, channels).transpose(2, 3)
    x = fn(x.reshape(-1, window_size**2, channels))
    channels = x.shape[2]
    x = x.view(batch, rows, cols, window_size, window_size, channels).transpose(2, 3)
    x = x.reshape(batch, padded_h, padded_w, channels)
    if may_shift(shift):
        x = _roll(x, shift)
    return x[:, :height, :width].reshape(batch, num_tokens, channels)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad a map (B, H, W, C) with zeros at the bottom and right; itself if there is nothing to pad.

    Returns:
        (B, H', W', C) with the smallest H' >= H and W' >= W that ``multiple`` divides.
    """
    height, width = x.shape[1:3]
    padded_h, padded_w = padded_shape((height, width), multiple)
    # F.pad copies also where it adds nothing. An exporter must not see a branch on a size.
    if not is_exporting() and (padded_h, padded_w) == (height, width):
        return x
    return F.pad(x, (0, 0, 0, padded_w - width, 0, padded_h - height))


def padded_shape(hw_shape: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The smallest (H, W) not below ``hw_shape`` that ``multiple`` divides."""
    height, width = hw_shape
    up = multiple - 1
    return (height + up) // multiple * multiple, (width + up) // multiple * multiple


def window_shift(hw_shape: tuple[int, int], window_size: int) -> tuple[int, int]:
    """Shift by half a window, but not along an axis on which the map is a single window."""
    # One over the number of windows, floored, is 1 for a single window and 0 for more: without a
    # branch, which would fix what the size of an exported graph is.
    rows, cols = (side // window_size for side in padded_shape(hw_shape, window_size))
    half = window_size // 2
    return half * (1 - 1 // rows), half * (1 - 1 // cols)


def may_shift(shift: tuple[int, int]) -> bool:
    """Whether a shift is not zero, or a symbol in an export that may be."""
    return any(not isinstance(step, int) or step != 0 for step in shift)


def _roll(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """Roll rows and columns of (B, H, W, C) cyclically."""
    if all(isinstance(step, int) for step in shift):
        return torch.roll(x, shift, (1, 2))
    for dim, step in enumerate(shift, start=1):
        size = x.shape[dim]
        index = torch.arange(size, device=x.device) - step
        # Neither a remainder by a symbol nor a product of one and a truth is translated to ONNX.
        index = torch.where(index < 0, index + size, index)
        x = x.index_select(dim, torch.where(index >= size, index - size, index))
    return x


def shift_mask(
    hw_shape: tuple[int, int], window_size: int, shift: tuple[int, int], device: torch.device
) -> Tensor:
    """Which token pairs of a window may not see each other after a cyclic shift.

    Args:
        hw_shape: Map size (H, W) in tokens, before padding.
        window_size: Side of a window in tokens.
        shift: Cyclic shift (rows, columns) in tokens.
        device: Where the mask lives.

    Returns:
        Boolean (windows, window_size ** 2, window_size ** 2), True where masked.
    """
    # Neither symbols nor what stands for numbers may be kept; nor may a CUDA graph be left with the
    # address of what is dropped from the cache later.
    passing = torch.compiler.is_compiling() or is_exporting() or is_transforming()
    if passing or is_faking() or is_capturing():
        return _shift_mask(hw_shape, window_size, shift, device)
    stream = torch.cuda.current_stream(device) if device.type == 'cuda' else None
    return _kept_shift_mask(hw_shape, window_size, shift, device, stream)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # training may take a mask that inference has made
def _kept_shift_mask(
    hw_shape: tuple[int, int],
    window_size: int,
    shift: tuple[int, int],
    device: torch.device,
    stream: object,  # another might read before this one has written
) -> Tensor:
    return _shift_mask(hw_shape, window_size, shift, device)


def _shift_mask(
    hw_shape: tuple[int, int], window_size: int, shift: tuple[int, int], device: torch.device
) -> Tensor:
    padded = padded_shape(hw_shape, window_size)
    # Along each axis the rolled map has three regions: untouched windows, the last window's own
    # part, and what was rolled in from the other end.
    row, col = (
        (torch.arange(size, device=device) >= size - window_size).int()
        + (torch.arange(size, device=device) >= size - step).int()
        for size, step in zip(padded, shift, strict=True)
    )
    region = (3 * row[:, None] + col[None, :]).view(
        padded[0] // window_size, window_size, padded[1] // window_size, window_size
    )
    region = region.transpose(1, 2).reshape(-1, window_size**2)
    return region[:, None, :] != region[:, :, None]


def relative_position_index(window_size: int) -> Tensor:
    """Row of the relative position bias table for each pair of tokens of a window.

    Args:
        window_size: Side of a window in tokens.

    Returns:
        Integers (window_size ** 2, window_size ** 2) below (2 * window_size - 1) ** 2.
    """
    axis = torch.arange(window_size)
    coords = torch.stack(torch.meshgrid(axis, axis, indexing='ij')).flatten(1)
    offset = coords[:, :, None] - coords[:, None, :] + window_size - 1
    return offset[0] * (2 * window_size - 1) + offset[1]

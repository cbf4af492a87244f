"""Learned position embeddings at any map size."""

from collections import OrderedDict
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from .compat import is_compiling, is_transforming
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
    image = pos_embed.transpose(1, 2).unflatten(2, grid_shape)
    image = F.interpolate(image, hw_shape, mode='bilinear', align_corners=False)
    return image.flatten(2).transpose(1, 2)


class ResizedPosEmbeds:
    """Resized position embeddings of the last few map sizes, for inference.

    Nothing is kept or taken while gradients are recorded, while compiling or while exporting, in
    torch.func's transforms or with fake tensors. An embedding that was changed or replaced since,
    or cast or moved, is resized afresh. Threads may share it.

    Args:
        max_size: Embeddings to keep.
    """

    def __init__(self, max_size: int = 16) -> None:
        self._max_size = max_size
        self._kept: OrderedDict[tuple, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = Lock()

    def __call__(
        self, pos_embed: Tensor, grid_shape: tuple[int, int], hw_shape: tuple[int, int]
    ) -> Tensor:
        """As :func:`resize_pos_embed`."""
        if (
            is_compiling()  # first: a branch on a size would bake it in
            or grid_shape == hw_shape
            or torch.jit.is_tracing()
            or torch.is_grad_enabled()
            or is_transforming()
            or pos_embed.is_inference()  # counts no versions
            or type(source := pos_embed.detach()) is not Tensor  # has no address
        ):
            return resize_pos_embed(pos_embed, grid_shape, hw_shape)
        # data_ptr tells device, dtype and replacement by `.data =`; the version, changes in place.
        key = (pos_embed.data_ptr(), pos_embed._version, pos_embed.dtype, pos_embed.device)
        key += (grid_shape, hw_shape)
        with self._lock:
            if key not in self._kept:
                resized = resize_pos_embed(pos_embed, grid_shape, hw_shape)
                # Were the source freed, the next embedding could get its address.
                self._kept[key] = resized.contiguous(), source
                if len(self._kept) > self._max_size:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def clear(self) -> None:
        """Forget all: for changes that leave no trace, such as ``parameter.data.copy_``."""
        with self._lock:
            self._kept.clear()

    def __deepcopy__(self, memo: dict) -> 'ResizedPosEmbeds':
        return type(self)(self._max_size)

    def __reduce__(self) -> tuple:
        return type(self), (self._max_size,)

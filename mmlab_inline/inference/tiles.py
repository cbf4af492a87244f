"""Images in overlapping tiles, and what was predicted for the tiles as one prediction."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .predictions import Instances, MaskCrop

# Above this overlap two boxes of a class, from two tiles, are one object; what NMS takes.
OVERLAP_THRESHOLD = 0.5
# A box that ends within so many pixels of a tile's border may be of a part of an object.
BORDER = 4


def tile_corners(
    height: int, width: int, tile: int, overlap: int
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Cover an image with equal tiles, the last of each row and column flush with the border.

    Args:
        height, width: Of the image, pixels.
        tile: Side of a tile.
        overlap: Pixels that neighbours share at least; less than ``tile``.

    Returns:
        (top, left) of each tile, row by row, and the (height, width) of all.
    """
    rows, columns = (_starts(length, tile, tile - overlap) for length in (height, width))
    return [(top, left) for top in rows for left in columns], (min(tile, height), min(tile, width))


def merge_instances(
    parts: Sequence[Instances],
    corners: Sequence[tuple[int, int]],
    tile_shape: tuple[int, int],
    image_shape: tuple[int, int],
) -> Instances:
    """Merge the objects of all tiles by class-wise non-maximum suppression.

    Within a tile the model has done so itself; only objects of different tiles are compared. A box
    that ends at a tile's border inside the image may be of a part of an object: it comes after all
    whole ones, and goes if half of *itself* is covered, where the others go by intersection over
    union.

    Args:
        parts: Objects of each tile, in the tile's pixels.
        corners: (top, left) of each tile.
        tile_shape: (height, width) of a tile.
        image_shape: (height, width) of the image.

    Returns:
        Objects in the image's pixels, by falling score.
    """
    local = np.concatenate([part.boxes for part in parts])
    tiles = np.repeat(np.arange(len(parts)), [len(part.boxes) for part in parts])
    offsets = np.array([(left, top, left, top) for top, left in corners], np.float32)
    boxes = local + offsets[tiles]
    scores = np.concatenate([part.scores for part in parts])
    labels = np.concatenate([part.labels for part in parts])

    size, image_size = (np.array([*shape[::-1]] * 2) for shape in (tile_shape, image_shape))
    at_tile_end = np.concatenate([local[:, :2] < BORDER, local[:, 2:] > size[2:] - BORDER], axis=1)
    at_image_end = np.concatenate(
        [boxes[:, :2] < BORDER, boxes[:, 2:] > image_size[2:] - BORDER], axis=1
    )
    cut = (at_tile_end & ~at_image_end).any(axis=1)

    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for index in np.lexsort((-scores, cut)):
        others = np.array(kept, int)
        others = others[(labels[others] == labels[index]) & (tiles[others] != tiles[index])]
        low = np.maximum(boxes[index, :2], boxes[others, :2])
        high = np.minimum(boxes[index, 2:], boxes[others, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        whole = areas[index] if cut[index] else areas[index] + areas[others] - shared
        if not (shared > OVERLAP_THRESHOLD * whole).any():
            kept.append(int(index))
    kept.sort(key=lambda index: -scores[index])

    masks = None
    if parts[0].masks is not None:
        moved = [
            MaskCrop(mask.left + left, mask.top + top, mask.pixels)
            for part, (top, left) in zip(parts, corners, strict=True)
            for mask in part.masks
        ]
        masks = [moved[index] for index in kept]
    return Instances(boxes[kept], scores[kept], labels[kept], masks)


class LabelMapMerger:
    """Averages the logits of overlapping tiles, holding one row of tiles at a time.

    Args:
        height, width: Of the image, pixels.
        tile_height: Of every tile.
        threshold: Of a model with one channel, whose output is the probability of class 1.
    """

    def __init__(self, height: int, width: int, tile_height: int, threshold: float) -> None:
        self.tile_height = tile_height
        self.threshold = threshold
        self.top = 0
        self.sums: Tensor | None = None
        self.counts = torch.zeros(tile_height, width)
        self.label_map = torch.zeros(height, width, dtype=torch.int16)

    def add(self, top: int, left: int, logits: Tensor) -> None:
        """Add a tile; tiles come row by row from the top.

        Args:
            top, left: Where it lies.
            logits: ``(C, h, w)``.
        """
        if self.sums is None:
            self.sums = torch.zeros(len(logits), *self.counts.shape)
        if top > self.top:
            self._finish_rows(top - self.top)
        columns = slice(left, left + logits.shape[2])
        self.sums[:, :, columns] += logits.cpu()
        self.counts[:, columns] += 1

    def result(self) -> np.ndarray:
        """The label map ``(H, W)``, after the last tile."""
        self._finish_rows(self.tile_height)
        return self.label_map.numpy()

    def _finish_rows(self, rows: int) -> None:
        means = self.sums[:, :rows] / self.counts[:rows]
        done = self.label_map[self.top : self.top + rows]
        done.copy_(logits_to_labels(means, self.threshold))
        self.top += rows
        for kept in (self.sums, self.counts):
            rest = kept[..., rows:, :].clone()
            kept.zero_()
            kept[..., : rest.shape[-2], :] = rest


def logits_to_labels(logits: Tensor, threshold: float) -> Tensor:
    """Label map ``(H, W)`` of logits ``(C, H, W)``, or of probabilities if C is 1."""
    return logits.argmax(dim=0) if len(logits) > 1 else (logits[0] > threshold).long()


def _starts(length: int, tile: int, stride: int) -> list[int]:
    if length <= tile:
        return [0]
    return [*range(0, length - tile, stride), length - tile]

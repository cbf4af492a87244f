"""What is predicted for an image, in the image's own pixels and on the CPU."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from pycocotools import mask as coco_mask


@dataclass(frozen=True)
class MaskCrop:
    """An object's mask, cut to its extents: many whole masks of a large image would fill memory.

    Attributes:
        left, top: Where the crop lies, pixels.
        pixels: ``(h, w)`` bool.
    """

    left: int
    top: int
    pixels: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> 'MaskCrop':
        """Cut a whole mask ``(H, W)``, bool."""
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        return cls(left, top, mask[top : top + height, left : left + width].copy())

    def rle(self, height: int, width: int) -> dict:
        """COCO's compressed run-length code of the mask in an image of that size."""
        crop_height, crop_width = self.pixels.shape
        columns = np.zeros((height, crop_width), bool)
        columns[self.top : self.top + crop_height] = self.pixels
        # Runs go down the columns; the first is of zeros.
        flat = np.concatenate([[False], columns.ravel(order='F')])
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        runs = np.diff(np.concatenate([[0], changes, [columns.size]]))
        runs[0] += self.left * height
        rest = (width - self.left - crop_width) * height
        if len(runs) % 2:
            runs[-1] += rest
        elif rest:
            runs = np.append(runs, rest)
        size = [height, width]
        code = coco_mask.frPyObjects({'size': size, 'counts': runs.tolist()}, height, width)
        return {'size': size, 'counts': code['counts'].decode()}


@dataclass(frozen=True)
class Instances:
    """Detected objects.

    Attributes:
        boxes: ``(N, 4)`` float32: left, top, right, bottom in pixels.
        scores: ``(N,)`` float32, or None where the objects are annotated ones.
        labels: ``(N,)`` int64, positions in the classes.
        masks: One per object, or None from a model that has no masks.
    """

    boxes: np.ndarray
    scores: np.ndarray | None
    labels: np.ndarray
    masks: list[MaskCrop] | None


# Objects, or a label map (H, W) of positions in the classes, uint8 or uint16.
Prediction: TypeAlias = Instances | np.ndarray

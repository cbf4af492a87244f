"""Predictions drawn over their images: one colour per class, everywhere."""

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .predictions import Instances, Prediction

# Smaller images are enlarged to this, or their labels would cover them.
MIN_SIDE = 480
_OPACITY = 0.45
_FONT = Path(matplotlib.get_data_path(), 'fonts/ttf/DejaVuSans.ttf')


def class_colours(count: int, palette: Sequence | str | None = None) -> np.ndarray:
    """Colours of the classes.

    Args:
        count: Number of classes.
        palette: A colour per class, taken as it is; anything else is replaced by hues that lie a
            golden section apart, so that a class has its colour however many there are.

    Returns:
        ``(count, 3)`` uint8, RGB.
    """
    if not isinstance(palette, str) and palette is not None and len(palette) == count:
        return np.array(palette, np.uint8).reshape(count, 3)
    hues = [index * 0.6180339887 % 1 for index in range(count)]
    shades = [(0.9, 0.95), (0.55, 1.0), (1.0, 0.65)]
    colours = [
        colorsys.hsv_to_rgb(hue, *shades[index // 8 % len(shades)])
        for index, hue in enumerate(hues)
    ]
    return (np.array(colours).reshape(count, 3) * 255).round().astype(np.uint8)


class Painter:
    """Draws predictions.

    Args:
        classes: Their names.
        palette: ``(num_classes, 3)`` uint8, RGB.
    """

    def __init__(self, classes: Sequence[str], palette: np.ndarray) -> None:
        self.classes = classes
        self.palette = palette

    def draw(self, image: np.ndarray, prediction: Prediction) -> np.ndarray:
        """Draw a prediction over its image.

        Args:
            image: ``(H, W, 3)``, BGR.
            prediction: Of the image.

        Returns:
            The picture, uint8, RGB; a small image is enlarged by a whole number.
        """
        scale = max(1, round(MIN_SIDE / max(image.shape[:2])))
        picture = np.ascontiguousarray(image[..., ::-1].clip(0, 255).astype(np.uint8))
        if isinstance(prediction, Instances):
            return self._draw_instances(_enlarge(picture, scale), prediction, scale)
        return self._draw_label_map(_enlarge(picture, scale), _enlarge(prediction, scale))

    def _draw_instances(self, picture: np.ndarray, found: Instances, scale: int) -> np.ndarray:
        width = 1 + max(picture.shape[:2]) // 700
        order = np.argsort(found.scores, kind='stable')  # the surest lie on top
        for index in order if found.masks is not None else ():
            colour = self.palette[found.labels[index]]
            mask = found.masks[index]
            pixels = _enlarge(mask.pixels.astype(np.uint8), scale)
            left, top = mask.left * scale, mask.top * scale
            part = picture[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            _tint(part, pixels > 0, colour)
            outlines, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(
                picture, outlines, -1, colour.tolist(), width, cv2.LINE_AA, offset=(left, top)
            )
        for index in order:
            box = (found.boxes[index] * scale).round().astype(int).tolist()
            colour = self.palette[found.labels[index]].tolist()
            cv2.rectangle(picture, box[:2], box[2:], colour, width)
        drawing = Image.fromarray(picture)
        for index in order:
            label = found.labels[index]
            text = f'{self.classes[label]} {found.scores[index]:.2f}'
            left, top = found.boxes[index, :2] * scale
            self._write(drawing, text, label, (left, top), centred=False)
        return np.asarray(drawing)

    def _draw_label_map(self, picture: np.ndarray, label_map: np.ndarray) -> np.ndarray:
        present = np.unique(label_map)
        colours = self.palette[label_map]
        picture[:] = ((1 - _OPACITY) * picture + _OPACITY * colours).round().astype(np.uint8)
        drawing = Image.fromarray(picture)
        for label in present:
            place = _innermost(label_map == label)
            self._write(drawing, self.classes[label], label, place, centred=True)
        return np.asarray(drawing)

    def _write(
        self,
        drawing: Image.Image,
        text: str,
        label: int,
        place: tuple[float, float],
        centred: bool,
    ) -> None:
        """Write on a ground of the class's colour; above ``place``, or around it if centred."""
        colour = self.palette[label]
        size = min(28, max(13, max(drawing.size) // 60))
        font = ImageFont.truetype(str(_FONT), size)
        pen = ImageDraw.Draw(drawing)
        _, _, width, height = pen.textbbox((0, 0), text, font=font)
        width, height = int(width) + 6, int(height) + 4
        x, y = place
        if centred:
            x, y = x - width / 2, y - height / 2
        else:
            y = y - height if y >= height else y
        x = int(min(max(x, 0), max(drawing.width - width, 0)))
        y = int(min(max(y, 0), max(drawing.height - height, 0)))
        pen.rectangle((x, y, x + width, y + height), fill=tuple(colour.tolist()))
        bright = colour @ (0.299, 0.587, 0.114) > 140
        pen.text((x + 3, y + 1), text, fill='black' if bright else 'white', font=font)


def _enlarge(array: np.ndarray, scale: int) -> np.ndarray:
    return array if scale == 1 else array.repeat(scale, axis=0).repeat(scale, axis=1)


def _tint(part: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    part[mask] = ((1 - _OPACITY) * part[mask] + _OPACITY * colour).round()


def _innermost(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of the pixel that lies deepest inside; the image's border counts as an edge."""
    padded = np.pad(mask.astype(np.uint8), 1)
    depths = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depths.argmax(), depths.shape)
    return float(x), float(y)

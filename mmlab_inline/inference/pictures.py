"""Predictions drawn over their images: one colour per class, everywhere."""

import colorsys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib import font_manager, ft2font
from PIL import Image, ImageDraw, ImageFont

from ..datasets.checks import is_background
from .predictions import Instances, Prediction

# Smaller images are enlarged to this, or their labels would cover them.
MIN_SIDE = 480
_OPACITY = 0.5
# Parts of a label map below this share of the image get no text of their own.
_TINY = 0.004
# The longer side of a picture over the height of its text.
_TEXTS = 60
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


def font_for(text: str) -> tuple[Path, set[str]]:
    """A font that has the letters of a text, and which of them it lacks.

    The first is DejaVu Sans; where it lacks some, the one of the system's that lacks the fewest.
    """
    lacking = {_FONT: set(text) - _letters(_FONT)}
    if lacking[_FONT]:
        lacking |= {path: set(text) - _letters(path) for path in map(Path, sorted(_system_fonts()))}
    best = min(lacking, key=lambda path: len(lacking[path]))
    return best, lacking[best]


def _system_fonts() -> list[str]:
    return font_manager.findSystemFonts()


@cache
def _letters(font: Path) -> frozenset[str]:
    try:
        return frozenset(map(chr, ft2font.FT2Font(str(font)).get_charmap()))
    except RuntimeError:  # no font that FreeType reads
        return frozenset()


def legend(numbers: Mapping[int, str]) -> str:
    """What :attr:`Painter.numbers` stand for, in words; empty where all names are written."""
    if not numbers:
        return ''
    return (
        'no font of this system has all letters of the class names; pictures show numbers in '
        f'their place: {", ".join(f"{number} {name}" for number, name in numbers.items())}'
    )


class Painter:
    """Draws predictions, or annotations, with short names; a background stays clear.

    Args:
        classes: Their names.
        palette: ``(num_classes, 3)`` uint8, RGB.
        texts: The longer side of a picture over the height of its text.

    Attributes:
        numbers: Classes whose names no font of the system can write, by the numbers in their place.
    """

    def __init__(self, classes: Sequence[str], palette: np.ndarray, texts: int = _TEXTS) -> None:
        # Synonyms such as ADE20K's would cover the picture.
        names = [textwrap.shorten(name.split(',')[0], 20, placeholder='…') for name in classes]
        self._font, lacking = font_for(''.join(names))
        self.numbers = {n: classes[n] for n, name in enumerate(names) if set(name) & lacking}
        self.classes = [str(n) if n in self.numbers else name for n, name in enumerate(names)]
        self.palette = palette
        self._share = texts
        self._clear = [n for n, name in enumerate(classes) if is_background(name)]

    def draw(self, image: np.ndarray, prediction: Prediction, empty: str = '') -> np.ndarray:
        """Draw a prediction over its image.

        Args:
            image: ``(H, W, 3)``, BGR, or ``(H, W)``, grey.
            prediction: Of the image.
            empty: What to write where there is no object.

        Returns:
            The picture, uint8, RGB; a small image is enlarged by a whole number.
        """
        scale = max(1, round(MIN_SIDE / max(image.shape[:2])))
        if image.ndim == 2:
            image = image[..., None].repeat(3, axis=2)
        picture = np.ascontiguousarray(image[..., ::-1].clip(0, 255).astype(np.uint8))
        if isinstance(prediction, Instances):
            picture = self._draw_instances(_enlarge(picture, scale), prediction, scale)
            if empty and not len(prediction.boxes):
                texts = _Texts(picture, _FONT, self._share)
                texts.write(empty, [(0, 0)], np.full(3, 255, np.uint8))
                picture = texts.picture()
            return picture
        return self._draw_label_map(_enlarge(picture, scale), _enlarge(prediction, scale))

    def _draw_instances(self, picture: np.ndarray, found: Instances, scale: int) -> np.ndarray:
        width = 2 + max(picture.shape[:2]) // 700
        # The surest lie on top; annotated objects have no score, there it is the smallest.
        areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
        order = np.argsort(-areas if found.scores is None else found.scores, kind='stable')
        for index in order if found.masks is not None else ():
            colour = self.palette[found.labels[index]]
            mask = found.masks[index]
            if not mask.pixels.size:
                continue
            pixels = _enlarge(mask.pixels.astype(np.uint8), scale)
            left, top = mask.left * scale, mask.top * scale
            part = picture[top : top + pixels.shape[0], left : left + pixels.shape[1]]
            part[pixels > 0] = _tinted(part, np.full_like(part, colour))[pixels > 0]
            outlines, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(picture, outlines, -1, colour.tolist(), width, offset=(left, top))
        for index in order:
            box = (found.boxes[index] * scale).round().astype(int).tolist()
            colour = self.palette[found.labels[index]].tolist()
            cv2.rectangle(picture, box[:2], box[2:], colour, width)
        texts = _Texts(picture, self._font, self._share)
        for index in order[::-1]:
            label = found.labels[index]
            text = self.classes[label]
            if found.scores is not None:
                text += f' {found.scores[index]:.2f}'
            left, top, _, bottom = found.boxes[index] * scale
            # Above the box, or where there is room: inside, below.
            places = [(left, top - texts.height), (left, top), (left, bottom)]
            texts.write(text, places, self.palette[label])
        return texts.picture()

    def _draw_label_map(self, picture: np.ndarray, label_map: np.ndarray) -> np.ndarray:
        clear = np.isin(label_map, self._clear)[..., None]
        picture = np.where(clear, picture, _tinted(picture, self.palette[label_map]))
        border = np.zeros(label_map.shape, bool)
        border[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
        border[1:] |= label_map[1:] != label_map[:-1]
        picture[border] = 255
        texts = _Texts(picture, self._font, self._share)
        for label in np.setdiff1d(label_map, self._clear):
            for x, y in _places(label_map == label):
                name = self.classes[label]
                place = (x - texts.width(name) / 2, y - texts.height / 2)
                texts.write(name, [place], self.palette[label])
        return texts.picture()


class _Texts:
    """Writes on a picture, each text on a ground of its colour and beside the others."""

    def __init__(self, picture: np.ndarray, font: Path, share: int = _TEXTS) -> None:
        self._image = Image.fromarray(picture)
        self._pen = ImageDraw.Draw(self._image)
        size = max(13, max(self._image.size) // share)
        self._font = ImageFont.truetype(str(font), size)
        self._taken = np.zeros((0, 4))
        self.height = size + 7

    def picture(self) -> np.ndarray:
        return np.asarray(self._image)

    def width(self, text: str) -> int:
        return int(self._font.getlength(text)) + 7

    def write(self, text: str, places: Sequence[tuple[float, float]], colour: np.ndarray) -> None:
        """Write at the first of the places (left, top) that is free, or at the first of all."""
        width, height = self.width(text), self.height
        limits = np.maximum(np.array(self._image.size) - (width, height), 0)
        spots = [np.clip(place, 0, limits).astype(int) for place in places]
        x, y = next((spot for spot in spots if self._is_free(*spot, width)), spots[0]).tolist()
        self._taken = np.vstack([self._taken, (x, y, x + width, y + height)])
        box = (x, y, x + width - 1, y + height - 1)
        self._pen.rectangle(box, fill=tuple(colour.tolist()))
        ink = 'black' if colour @ (0.299, 0.587, 0.114) > 140 else 'white'
        self._pen.text((x + 3, y + height // 2), text, fill=ink, font=self._font, anchor='lm')

    def _is_free(self, x: int, y: int, width: int) -> bool:
        left, top, right, bottom = self._taken.T
        beside = (left >= x + width) | (right <= x) | (top >= y + self.height) | (bottom <= y)
        return bool(beside.all())


def _enlarge(array: np.ndarray, scale: int) -> np.ndarray:
    return array if scale == 1 else array.repeat(scale, axis=0).repeat(scale, axis=1)


def _tinted(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return cv2.addWeighted(pixels, 1 - _OPACITY, colours, _OPACITY, 0)  # without floats


def _places(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """(x, y) of the innermost pixel of the largest connected part, and of all that are not tiny."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    order = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind='stable') + 1
    for rank, part in enumerate(order):
        left, top, width, height, area = stats[part]
        if rank and area < _TINY * mask.size:
            break
        inside = parts[top : top + height, left : left + width] == part
        # The picture's border counts as an edge.
        depths = cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 3)
        y, x = np.unravel_index(depths.argmax(), depths.shape)
        yield int(left + x - 1), int(top + y - 1)

"""One picture of many, with their annotations drawn."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..inference import Instances, MaskCrop, Painter, class_colours
from ..inference.pictures import font_for
from ..utils import UserError, counted
from .readers import OwnData, Picture, draw_label_map, mask_of

COLUMNS, ROWS = 4, 3
_WIDTH, _HEIGHT, _CAPTION, _GAP = 480, 360, 24, 8


def draw_contact_sheet(
    path: Path, data: OwnData, with_label_maps: bool, seed: int = 0
) -> dict[int, str]:
    """Draw up to 12 pictures of the training split with their annotations.

    Args:
        path: PNG file to write.
        data: The data.
        with_label_maps: Draw label maps instead of objects.
        seed: The same seed chooses the same pictures.

    Returns:
        Classes whose names no font of the system can write, by the numbers drawn in their place.

    Raises:
        UserError: A picture does not load.
    """
    pictures = choose_pictures(data.splits['train'], COLUMNS * ROWS, seed)
    painter = Painter(data.classes, class_colours(len(data.classes)))
    font_path, lacking = font_for(''.join(picture.path.name for picture in pictures))
    unwritten = str.maketrans(dict.fromkeys(lacking, '?'))
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    width, height = _WIDTH + _GAP, _HEIGHT + _CAPTION + _GAP
    sheet = Image.new('RGB', (columns * width + _GAP, rows * height + _GAP), 'white')
    pen, font = ImageDraw.Draw(sheet), ImageFont.truetype(str(font_path), 14)
    for index, picture in enumerate(pictures):
        drawn = _draw(painter, data, picture, with_label_maps)
        x, y = _GAP + index % columns * width, _GAP + index // columns * height
        room = (_WIDTH - drawn.shape[1]) // 2, (_HEIGHT - drawn.shape[0]) // 2
        sheet.paste(Image.fromarray(drawn), (x + room[0], y + room[1]))
        caption = _caption(picture, with_label_maps, font).translate(unwritten)
        pen.text((x, y + _HEIGHT + 2), caption, 'black', font)
    sheet.save(path)
    return painter.numbers


def choose_pictures(pictures: Sequence[Picture], count: int, seed: int = 0) -> list[Picture]:
    """Pictures that together show as many classes as possible, the rarest as often as the others.

    Args:
        pictures: To choose from.
        count: How many at most.
        seed: The same seed chooses the same pictures.
    """
    left = list(pictures)
    random.Random(seed).shuffle(left)
    shown: Counter = Counter()
    chosen: list[Picture] = []
    while left and len(chosen) < count:
        # A class counts the less, the more pictures show it already.
        best = max(left, key=lambda item: sum(0.5 ** shown[label] for label in item.amounts()))
        left.remove(best)
        chosen.append(best)
        shown.update(set(best.amounts()))
    return chosen


def _caption(picture: Picture, with_label_maps: bool, font: ImageFont.FreeTypeFont) -> str:
    amounts = picture.amounts()
    amount = counted(*((len(amounts), 'class') if with_label_maps else (amounts.total(), 'object')))
    rest = f'  {picture.size[1]}x{picture.size[0]}  {amount}'
    name = picture.path.name
    while font.getlength(name + rest) > _WIDTH and len(name) > 8:
        name = name[: len(name) // 2 - 2] + '…' + name[len(name) // 2 + 2 :]
    return name + rest


def _draw(painter: Painter, data: OwnData, picture: Picture, with_label_map: bool) -> np.ndarray:
    image = mmcv.imread(str(picture.path))
    if image is None:
        raise UserError(f'{picture.path} does not load; copy it anew, or take it out of the data')
    height, width = picture.size
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if with_label_map:
        labels = draw_label_map(data, picture)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        return _draw_labels(painter, image, labels)
    items = picture.objects
    boxes = np.array([item['bbox'] for item in items], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = None
    if items and all('segmentation' in item for item in items):
        masks = [
            MaskCrop.of(cv2.resize(mask_of(item, picture.size).astype(np.uint8), size) > 0)
            for item in items
        ]
    labels = np.array([item['label'] for item in items], np.int64)
    return painter.draw(image, Instances(boxes * scale, None, labels, masks))


def _draw_labels(painter: Painter, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw a label map; what is ignored is grey and says so."""
    ignored = labels >= len(painter.classes)
    if not ignored.any():
        return painter.draw(image, labels)
    colours = np.vstack([painter.palette, [[128, 128, 128]]]).astype(np.uint8)
    wider = Painter([*painter.classes, 'ignored'], colours)
    return wider.draw(image, np.where(ignored, len(painter.classes), labels).astype(np.uint8))

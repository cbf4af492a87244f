"""What every reader gives: pictures with objects or label maps, by split."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from ...utils import UserError


@dataclass
class Picture:
    """A picture and what is annotated in it.

    Attributes:
        path: The file, absolute.
        size: Height and width in pixels.
        objects: As :func:`make_object` returns them.
        label_map: File of its label map, for semantic segmentation.
        pixels: Pixels of each class in the label map, or in the one drawn from the objects.
        region_sizes: Square roots of the areas of the connected regions in the label map, pixels.
    """

    path: Path
    size: tuple[int, int]
    objects: list[dict] = field(default_factory=list)
    label_map: Path | None = None
    pixels: Counter = field(default_factory=Counter)
    region_sizes: list[float] = field(default_factory=list)

    def amounts(self) -> Counter:
        """Pixels of each class in the label map, else objects of each class, crowds apart."""
        if self.pixels:
            return self.pixels
        return Counter(item['label'] for item in self.objects if not item['iscrowd'])


@dataclass
class OwnData:
    """A folder of pictures with annotations.

    Attributes:
        root: The folder, absolute.
        format: What it was read as.
        classes: Their names, in the order of the labels.
        splits: Pictures by ``'train'``, ``'val'``, ``'test'``, or ``None`` where nothing tells.
        coding: Label of each value or ``(r, g, b)`` in the label maps, 255 to ignore it.
        notes: What the user should know about how the folder was read.
        listed: Split of each picture as a description of the data gives it; None: there is none.
    """

    root: Path
    format: str
    classes: list[str]
    splits: dict[str | None, list[Picture]]
    coding: dict = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    listed: dict[Path, str] | None = None

    def pictures(self) -> Iterator[Picture]:
        """The pictures of all splits."""
        return (picture for pictures in self.splits.values() for picture in pictures)


def number(value: object, what: str, remedy: str) -> float:
    """A number of an annotation file, which may stand there as text.

    Args:
        value: As it was read.
        what: What it is and where, for the message.
        remedy: What to do, for the message.

    Raises:
        UserError: It is none, or not finite.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise UserError(f'{what} is {value!r}, which is no number; {remedy}')
    return found


def identifier(value: object) -> object:
    """An id or class number as ids compare: 7, 7.0, '7' and '7.0' are one."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    try:
        found = float(value)
    except (TypeError, ValueError):
        return value
    return int(found) if found.is_integer() and abs(found) < 2**53 else value


def make_object(
    label: int,
    size: tuple[int, int],
    box: Sequence[float] | None = None,
    mask: Sequence | Mapping | None = None,
    iscrowd: int = 0,
) -> dict | None:
    """An object in COCO's terms, with its box and area made from the mask where it has one.

    Args:
        label: Position in the classes.
        size: Height and width of the picture in pixels.
        box: Left, top, width, height in pixels; None: that of the mask.
        mask: Polygons ``[[x, y, ...], ...]`` or run lengths, as in COCO.
        iscrowd: 1 for a region of many objects.

    Returns:
        label, bbox, area, iscrowd, and segmentation if there is a mask; None without any extent.
    """
    if isinstance(mask, Sequence):
        mask = [polygon for polygon in mask if len(polygon) >= 6]
    found = dict(label=label, iscrowd=iscrowd)
    if mask:
        rle = _encode(mask, size)
        found.update(segmentation=mask, area=float(coco_mask.area(rle)))
        box = box or coco_mask.toBbox(rle).tolist()
    if not box:
        return None
    found['bbox'] = [float(number) for number in box]
    found.setdefault('area', found['bbox'][2] * found['bbox'][3])
    return found


def mask_of(item: Mapping, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an object that has a mask, ``(H, W)`` bool."""
    return coco_mask.decode(_encode(item['segmentation'], size)).astype(bool)


def has_masks(data: OwnData) -> bool:
    """Whether every object has a mask."""
    items = [item for picture in data.pictures() for item in picture.objects]
    return bool(items) and all('segmentation' in item for item in items)


def complete_masks(data: OwnData, keep: bool) -> None:
    """Say which objects lack a mask that others have, or give them their box as a mask."""
    pairs = [(picture, item) for picture in data.pictures() for item in picture.objects]
    lacking = [pair for pair in pairs if 'segmentation' not in pair[1]]
    if not lacking or len(lacking) == len(pairs):
        return
    picture, item = lacking[0]
    name = picture.path.relative_to(data.root).as_posix()
    text = (
        f'{len(lacking)} of {len(pairs)} objects have a box but no mask, the first of class '
        f'{data.classes[item["label"]]} in {name}'
    )
    if not keep:
        data.notes.append(f'{text}: no mask is learned; --keep-masks takes boxes for the masks')
        return
    data.notes.append(f'{text}: the box is taken for the mask')
    for _, item in lacking:
        x, y, width, height = item['bbox']
        right, bottom = x + width, y + height
        item['segmentation'] = [[x, y, right, y, right, bottom, x, bottom]]


def listed(names: Sequence[str]) -> str:
    """How many names, and the first of them."""
    more = ', ...' if len(names) > 5 else ''
    return f'{len(names)} ({", ".join(map(repr, names[:5]))}{more})'


def _encode(mask: Sequence | Mapping, size: tuple[int, int]) -> dict:
    if isinstance(mask, Mapping) and not isinstance(mask['counts'], list):
        return dict(mask)  # compressed already
    code = coco_mask.frPyObjects(mask, *size)
    return coco_mask.merge(code) if isinstance(code, list) else code

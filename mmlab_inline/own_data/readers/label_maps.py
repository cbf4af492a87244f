"""Pictures with label maps: read as labelling tools write them, written as mmseg trains on them."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ...datasets.checks.classes import is_background
from ...datasets.checks.images import any_size
from ...utils import UserError, write_atomically
from .data import OwnData, Picture, has_masks, mask_of
from .folder import Folder, size_of
from .label_names import IGNORED, Names, find_names, resolve_coding

# Below this share of the picture a region is a speck.
_SPECK = 1e-4


def read_label_maps(
    folder: Folder,
    files: Mapping[Path, Path | None],
    names: Names | None = None,
    zero: str | None = None,
) -> OwnData:
    """Read pictures with label maps.

    Args:
        folder: Where both lie.
        files: As :meth:`Folder.label_maps` returns them.
        names: Names of the classes; None: as a file beside the label maps has them.
        zero: As in :func:`resolve_coding`.

    Raises:
        UserError: Pictures and label maps do not fit together, or no class can be made of them.
    """
    data = OwnData(folder.root, 'label maps', [], {})
    amounts: Counter = Counter()
    pairs = sorted((picture, path) for path, picture in files.items() if picture)
    for path, label_map in pairs:
        picture = Picture(path, size_of(path), label_map=label_map)
        pixels = _read(label_map)
        if pixels.shape[:2] != picture.size:
            raise UserError(
                f'{label_map} is {pixels.shape[1]}x{pixels.shape[0]}, its picture '
                f'{picture.size[1]}x{picture.size[0]}; resize it with nearest neighbour'
            )
        picture.pixels = _count(pixels)
        amounts += picture.pixels
        split = folder.split_of(path) or folder.split_of(label_map)
        data.splits.setdefault(split, []).append(picture)
    alone = [p for p in folder.may_be_photographs(folder.pictures) if p not in dict(pairs)]
    if not amounts:
        raise UserError(
            f'none of the {len(alone)} pictures in {folder.root} has a label map; give '
            'both the same name, as in images/a.jpg and masks/a.png'
        )
    for what, left_out in (
        ('pictures without a label map', alone),
        ('label maps without a picture', [path for path in files if not files[path]]),
    ):
        if left_out:
            example = folder.relative(left_out[0])
            data.notes.append(f'{what}, left out: {len(left_out)}, such as {example}')
    coloured = any(isinstance(value, tuple) and len(set(value)) > 1 for value in amounts)
    shares = {value: count / amounts.total() for value, count in _alike(amounts, coloured).items()}
    example = str(next(data.pictures()).label_map)
    names = find_names(folder) if names is None else names
    data.classes, data.coding, notes = resolve_coding(names, shares, zero, example)
    data.notes += notes
    for picture in data.pictures():
        labels = draw_label_map(data, picture)
        picture.pixels = _count(labels, without=IGNORED)
        picture.region_sizes = _region_sizes(labels, data.classes)
    return data


def to_label_maps(data: OwnData) -> OwnData:
    """The same pictures for semantic segmentation: objects become classes beside a background.

    Raises:
        UserError: An object has no mask.
    """
    if not has_masks(data):
        raise UserError(
            f'{data.root} has objects without a mask, of which no label map can be drawn; export '
            'polygons, draw their boxes by --keep-masks, or use --task det'
        )
    classes = ['background', *data.classes]
    drawn = replace(data, classes=classes, splits={}, notes=list(data.notes))
    for split, pictures in data.splits.items():
        drawn.splits[split] = []
        for picture in pictures:
            labels = _draw_objects(picture)
            sizes = _region_sizes(labels, classes)
            drawn.splits[split].append(replace(picture, pixels=_count(labels), region_sizes=sizes))
    return drawn


def draw_label_map(data: OwnData, picture: Picture) -> np.ndarray:
    """Labels of a picture, ``(H, W)`` uint8, 255 where none counts."""
    if picture.label_map is None:
        return _draw_objects(picture)
    pixels = _read(picture.label_map)
    coloured = any(isinstance(value, tuple) for value in data.coding)
    if coloured:
        pixels = _packed(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, -1))
    elif pixels.ndim == 3:
        pixels = pixels[..., 0]
    labels = np.full(pixels.shape, IGNORED, np.uint8)
    for value in np.unique(pixels).tolist():
        labels[pixels == value] = data.coding.get(_key(value, coloured), IGNORED)
    return labels


def write_label_maps(folder: Path, data: OwnData) -> None:
    """Write PNG files of one channel, called as the picture below the data, suffix included.

    Raises:
        UserError: A file cannot be written.
    """
    for picture in data.pictures():
        content = io.BytesIO()
        Image.fromarray(draw_label_map(data, picture)).save(content, 'PNG')
        name = picture.path.relative_to(data.root)
        write_atomically(folder / f'{name}.png', content.getvalue())


def _read(path: Path) -> np.ndarray:
    """Values (H, W), or colours (H, W, 3)."""
    try:
        with any_size(), Image.open(path) as image:
            if image.format == 'JPEG':
                raise UserError(
                    f'label map {path} is JPEG, which alters values; export label maps as PNG'
                )
            if image.mode in ('RGB', 'RGBA', 'LA', 'CMYK'):
                image = image.convert('RGB')
            pixels = np.array(image)
    except (OSError, UnidentifiedImageError, SyntaxError):
        raise UserError(f'label map {path} does not open; copy it anew from its source') from None
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _count(pixels: np.ndarray, without: int | None = None) -> Counter:
    coloured = pixels.ndim == 3
    values, counts = np.unique(_packed(pixels) if coloured else pixels, return_counts=True)
    found = zip(values.tolist(), counts.tolist(), strict=True)
    return Counter({_key(value, coloured): count for value, count in found if value != without})


def _alike(counts: Mapping, coloured: bool) -> Counter:
    """All keys as colours, or as values where every colour is a shade of grey."""
    found: Counter = Counter()
    for value, count in counts.items():
        if coloured != isinstance(value, tuple):
            value = (value,) * 3 if coloured else value[0]
        found[value] += count
    return found


def _packed(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _key(value: int, packed: bool) -> int | tuple[int, int, int]:
    """A value, or the colour that :func:`_packed` has made one of."""
    return (value >> 16, value >> 8 & 255, value & 255) if packed else value


def _region_sizes(labels: np.ndarray, classes: Sequence[str]) -> list[float]:
    """Square roots of the areas of connected regions of what is neither background nor ignored."""
    sizes = []
    for label in np.unique(labels):
        if label == IGNORED or is_background(classes[label]):
            continue
        _, _, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        sizes += np.sqrt(areas[areas > _SPECK * labels.size]).tolist()
    return sizes


def _draw_objects(picture: Picture) -> np.ndarray:
    """0 for the background, label + 1 for objects, the smaller over the larger."""
    labels = np.zeros(picture.size, np.uint8)
    for item in sorted(picture.objects, key=lambda item: -item['area']):
        labels[mask_of(item, picture.size)] = item['label'] + 1
    return labels

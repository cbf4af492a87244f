"""Pictures with label maps: read as labelling tools write them, written as mmseg trains on them."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ...utils import UserError, write_atomically
from .data import OwnData, Picture, has_masks, mask_of
from .folder import LABEL_MAP_TAIL, Folder, size_of
from .label_names import IGNORED, Names, find_names, resolve_coding
from .voc import read_lists

# Below this share of the picture a region is a speck.
_SPECK = 1e-4


def find_label_maps(folder: Folder) -> list[Path]:
    """The images below a folder that are label maps, by the names of their folders or their own."""
    return [path for path in folder.pictures if folder.is_label_map(path)]


def read_label_maps(
    folder: Folder, files: Iterable[Path], names: Names | None = None, zero: str | None = None
) -> OwnData:
    """Read pictures with label maps.

    A picture and its label map have the same name up to endings such as ``_mask`` and the suffix.
    Splits come from ImageSets/Segmentation, else from the names of the folders.

    Args:
        folder: Where both lie.
        files: As :func:`find_label_maps` returns them.
        names: Names of the classes; None: as a file beside the label maps has them.
        zero: As in :func:`resolve_coding`.

    Raises:
        UserError: Pictures and label maps do not fit together, or no class can be made of them.
    """
    files = set(files)
    lists = read_lists(folder, 'Segmentation')
    maps: dict[tuple[str | None, str], Path] = {}
    for path in sorted(files):
        key = folder.split_of(path), LABEL_MAP_TAIL.sub('', path.stem)
        if key in maps:
            raise UserError(
                f'{folder.relative(maps[key])} and {folder.relative(path)} may both be the label '
                'map of one picture; leave one of them in the folder'
            )
        maps[key] = path
    data = OwnData(folder.root, 'label maps', [], {})
    amounts: Counter = Counter()
    alone = 0
    for path in folder.pictures:
        label_map = maps.get((folder.split_of(path), path.stem))
        if path in files or label_map is None:
            alone += path not in files
            continue
        picture = Picture(path, size_of(path), label_map=label_map)
        pixels = _read(label_map)
        if pixels.shape[:2] != picture.size:
            raise UserError(
                f'{label_map} is {pixels.shape[1]}x{pixels.shape[0]}, its picture '
                f'{picture.size[1]}x{picture.size[0]}; resize it with nearest neighbour'
            )
        picture.pixels, picture.region_sizes = _count(pixels), _region_sizes(pixels)
        amounts += picture.pixels
        split = lists.get(path.stem) if lists else folder.split_of(path)
        data.splits.setdefault(split, []).append(picture)
    if not amounts:
        raise UserError(
            f'none of the {alone} pictures in {folder.root} has a label map; give both the same '
            'name, as in images/a.jpg and masks/a.png'
        )
    if alone:
        data.notes.append(f'pictures without a label map, left out: {alone}')
    if lists and None in data.splits:
        left_out = len(data.splits.pop(None))
        data.notes.append(f'pictures in no list of ImageSets/Segmentation, left out: {left_out}')
    coloured = any(isinstance(value, tuple) and len(set(value)) > 1 for value in amounts)
    shares = {value: count / amounts.total() for value, count in _alike(amounts, coloured).items()}
    example = str(next(data.pictures()).label_map)
    names = find_names(folder) if names is None else names
    data.classes, data.coding, notes = resolve_coding(names, shares, zero, example)
    data.notes += notes
    for picture in data.pictures():
        picture.pixels = _relabel(_alike(picture.pixels, coloured), data.coding)
    return data


def to_label_maps(data: OwnData) -> OwnData:
    """The same pictures for semantic segmentation: objects become classes beside a background.

    Raises:
        UserError: An object has no mask.
    """
    if not has_masks(data):
        raise UserError(
            f'{data.root} has objects without a mask, of which no label map can be drawn; export '
            'polygons, or use --task det'
        )
    classes = ['background', *data.classes]
    drawn = replace(data, classes=classes, splits={}, notes=list(data.notes))
    for split, pictures in data.splits.items():
        drawn.splits[split] = []
        for picture in pictures:
            pixels = _draw_objects(picture)
            counts = _relabel(_count(pixels), {label: label for label in range(len(classes))})
            drawn.splits[split].append(
                replace(picture, pixels=counts, region_sizes=_region_sizes(pixels))
            )
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
    for value, label in data.coding.items():
        labels[pixels == (_packed(np.array(value)) if coloured else value)] = label
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
        with Image.open(path) as image:
            if image.format == 'JPEG':
                raise UserError(
                    f'label map {path} is JPEG, which alters values; export label maps as PNG'
                )
            if image.mode in ('RGB', 'RGBA', 'LA', 'CMYK'):
                image = image.convert('RGB')
            pixels = np.array(image)
    except (OSError, UnidentifiedImageError):
        raise UserError(f'label map {path} does not open; copy it anew from its source') from None
    return pixels.astype(np.uint8) if pixels.dtype == bool else pixels


def _count(pixels: np.ndarray) -> Counter:
    if pixels.ndim == 2:
        values, counts = np.unique(pixels, return_counts=True)
        return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    values, counts = np.unique(_packed(pixels), return_counts=True)
    colours = [(value >> 16, value >> 8 & 255, value & 255) for value in values.tolist()]
    return Counter(dict(zip(colours, counts.tolist(), strict=True)))


def _alike(counts: Mapping, coloured: bool) -> Counter:
    """All keys as colours, or as values where every colour is a shade of grey."""
    found: Counter = Counter()
    for value, count in counts.items():
        if coloured != isinstance(value, tuple):
            value = (value,) * 3 if coloured else value[0]
        found[value] += count
    return found


def _relabel(counts: Mapping, coding: Mapping) -> Counter:
    """Pixels of each label out of pixels of each value, without what is ignored."""
    found: Counter = Counter()
    for value, count in counts.items():
        if coding[value] != IGNORED:
            found[coding[value]] += count
    return found


def _packed(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _region_sizes(pixels: np.ndarray) -> list[float]:
    if pixels.ndim == 3:
        pixels = _packed(pixels)
    sizes = []
    for value in np.unique(pixels):
        mask = (pixels == value).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        areas = stats[1:, cv2.CC_STAT_AREA]
        sizes += np.sqrt(areas[areas > _SPECK * pixels.size]).tolist()
    return sizes


def _draw_objects(picture: Picture) -> np.ndarray:
    """0 for the background, label + 1 for objects, the smaller over the larger."""
    labels = np.zeros(picture.size, np.uint8)
    for item in sorted(picture.objects, key=lambda item: -item['area']):
        labels[mask_of(item, picture.size)] = item['label'] + 1
    return labels

"""Pictures of drawn shapes, in the layouts of COCO and ADE20K.

The set stands in for COCO and ADE20K wherever those are out of reach: every picture is drawn from
a seed, and two machines that draw the same picture get the same pixels. Three rules keep it so:

* random numbers come from :class:`numpy.random.RandomState` only, whose stream NumPy has frozen,
  and always as ``int64``, because the default integer type differs between platforms;
* pixels are computed with integers only, so neither rounding nor summation order matters;
* a picture depends on its seed, split and index (and on size and classes), never on the pictures
  drawn before it.

A change to the drawing alters every picture of every user: raise :data:`VERSION` with it.
"""

import hashlib
import io
import json
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

VERSION = 1
CLASSES = ('circle', 'square', 'triangle', 'star', 'ring', 'cross')
SPLITS = ('train', 'val')
SIDES = (64, 2048)
MANIFEST = 'shapes.json'

# A shape is kept only while this much of its own area, and this many pixels, can be seen.
MIN_VISIBLE_PERCENT = 40
MIN_VISIBLE_PIXELS = 16

# Sines of 0, 6, ... 90 degrees in units of 1 / 2**14, written out because libm may differ in the
# last bit. A full turn has 60 steps, which also holds the 72 and 120 degrees of star and triangle.
_UNIT_BITS = 14
_TURN = 60
_SINES = (
    0,
    1713,
    3406,
    5063,
    6664,
    8192,
    9630,
    10963,
    12176,
    13255,
    14189,
    14968,
    15582,
    16026,
    16294,
    16384,
)

_COUNTS = (2, 5)
_DIAMETER_PERCENT = (20, 50)
_TRIES = 40
_COLOURS_TRIED = 16
_GROUND_RANGE = (48, 208)
_GROUND_CONTRAST = 64
_SHAPE_CONTRAST = 40
_NOISE = 6
_TEXTURES = ('gradient', 'stripes', 'checks', 'speckle', 'blotches')

_KIND = 'mmlab_inline drawn shapes'
_ADE_ROOT = Path('ade') / 'ADEChallengeData2016'
_ADE_SPLITS = {'train': 'training', 'val': 'validation'}


@dataclass(frozen=True)
class Drawing:
    """One drawn picture and what is to be found in it.

    The instances are in drawing order: each one lies over those before it.

    Attributes:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: ``(n, H, W)`` bool, the visible pixels of each shape; they do not overlap.
        labels: ``(n,)`` int64, positions in the ``classes`` the picture was drawn with.
        whole_areas: ``(n,)`` int64, pixels of each shape had nothing hidden it.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    whole_areas: np.ndarray

    def boxes(self) -> np.ndarray:
        """Return the extents of the visible pixels.

        Returns:
            ``(n, 4)`` int64, ``x, y, width, height`` in pixels as COCO has them.
        """
        boxes = np.zeros((len(self.masks), 4), dtype=np.int64)
        for box, mask in zip(boxes, self.masks, strict=True):
            rows = np.flatnonzero(mask.any(axis=1))
            columns = np.flatnonzero(mask.any(axis=0))
            left, top = columns[0], rows[0]
            box[:] = left, top, columns[-1] + 1 - left, rows[-1] + 1 - top
        return boxes

    def label_map(self) -> np.ndarray:
        """Return the classes of all pixels, numbered as in ADE20K.

        Returns:
            ``(H, W)`` uint8: 1 is background and ``label + 2`` a shape. ADE20K's 0, the ignored
            pixels, does not occur.
        """
        labels = np.ones(self.image.shape[:2], dtype=np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            labels[mask] = label + 2
        return labels

    def digest(self) -> str:
        """Return a SHA-256 in hexadecimal over pixels, masks and labels.

        It is the same on every machine, unlike one over PNG files, which depend on the encoder.
        """
        sha = hashlib.sha256(repr(self.masks.shape).encode())
        sha.update(self.image.tobytes())
        sha.update(self.masks.astype(np.uint8).tobytes())
        sha.update(self.labels.astype('<i8').tobytes())
        return sha.hexdigest()


def draw_image(
    seed: int,
    split: str,
    index: int,
    size: int | Sequence[int] = 160,
    classes: Sequence[str] = CLASSES,
) -> Drawing:
    """Draw one picture: a textured ground and two to five textured shapes on it.

    Shapes lie fully inside the picture and may hide parts of each other; one that would hide too
    much wherever it is tried is left out. The lowest one takes the classes in turn by ``index``, so
    that any ``len(classes)`` pictures in a row show all of them; the others, and all colours and
    textures, are drawn without regard to class.

    Args:
        seed: Seed of the set, 0 to 2**32 - 1.
        split: ``'train'`` or ``'val'``.
        index: Number of the picture in its split, from 0.
        size: Side, or height and width, in pixels.
        classes: Names out of :data:`CLASSES` to draw.

    Returns:
        The picture with the masks and labels of its shapes.

    Raises:
        ValueError: If an argument is not among what is allowed.
    """
    seed = _check_int('seed', seed, 0, 2**32 - 1)
    index = _check_int('index', index, 0, 2**32 - 1)
    if split not in SPLITS:
        raise ValueError(f'split is {split!r}, allowed are {", ".join(SPLITS)}')
    height, width = _check_size(size)
    classes = _check_classes(classes)

    rng = np.random.RandomState([seed, SPLITS.index(split), index])
    # The ground keeps off black, white and the pure colours, which leaves these to stand out.
    colours = [rng.randint(*_GROUND_RANGE, 3, dtype=np.int64)]
    colours.append(_nearby_colour(rng, colours[0], _GROUND_CONTRAST))
    image = _blend(*colours, _draw_texture(rng, height, width))

    masks: list[np.ndarray] = []
    labels: list[int] = []
    whole_areas: list[int] = []
    for position in range(_draw_int(rng, *_COUNTS)):
        label = _draw_int(rng, 0, len(classes) - 1) if position else index % len(classes)
        mask = _place(rng, classes[label], height, width, masks, whole_areas)
        if mask is None:
            continue
        masks = [below & ~mask for below in masks] + [mask]
        labels.append(label)
        whole_areas.append(int(mask.sum()))
        colour = _draw_colour(rng, colours)
        colours.append(colour)
        other = _nearby_colour(rng, colour, _SHAPE_CONTRAST)
        image[mask] = _blend(colour, other, _draw_texture(rng, height, width))[mask]

    image += rng.randint(-_NOISE, _NOISE + 1, image.shape, dtype=np.int64)
    return Drawing(
        image=image.clip(0, 255).astype(np.uint8),
        masks=np.stack(masks),
        labels=np.array(labels, dtype=np.int64),
        whole_areas=np.array(whole_areas, dtype=np.int64),
    )


def write_dataset(
    root: str | os.PathLike[str],
    num_train: int = 400,
    num_val: int = 100,
    size: int | Sequence[int] = 160,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write a set of pictures, once as COCO and once as ADE20K has it.

    Below ``root`` lie ``coco/{train2017,val2017}/NNNNNN.png`` with
    ``coco/annotations/instances_{train,val}2017.json``, and
    ``ade/ADEChallengeData2016/{images,annotations}/{training,validation}/NNNNNN.png`` with
    ``classes.txt`` beside them. Picture ``index`` has the number ``index + 1``. The manifest
    ``shapes.json`` is written last; a set that has one with the same parameters is left as it is.
    Several processes may write the same set at the same time.

    Args:
        root: Folder to write to, made if missing.
        num_train: Pictures for training, 1 to 999999.
        num_val: Pictures for validation, 1 to 999999.
        size: Side, or height and width, in pixels.
        seed: Seed of the set, 0 to 2**32 - 1.
        classes: Names out of :data:`CLASSES` to draw, in the order of their labels.
        force: Draw again over a set that is there already, whatever its parameters.
        progress: Called after each picture with the number done and the number in all.

    Returns:
        Whether anything was drawn: ``False`` if the set was there already.

    Raises:
        ValueError: If an argument is not among what is allowed, if ``root`` holds a set with other
            parameters (unless ``force``), or files that were not written by this function.
        OSError: If a file cannot be written.
    """
    root = Path(root)
    height, width = _check_size(size)
    plan = {
        'kind': _KIND,
        'version': VERSION,
        'num_train': _check_int('num_train', num_train, 1, 999_999),
        'num_val': _check_int('num_val', num_val, 1, 999_999),
        'size': [height, width],
        'seed': _check_int('seed', seed, 0, 2**32 - 1),
        'classes': list(_check_classes(classes)),
    }
    if root.exists() and not root.is_dir():
        raise ValueError(f'{root} is a file, a folder is needed')

    unfinished = root / f'{MANIFEST}.part'
    if not _make_room(root, unfinished, plan, force):
        return False
    _write_json(unfinished, plan)
    _write_pictures(root, plan, progress)
    _write_json(root / MANIFEST, plan)
    unfinished.unlink(missing_ok=True)
    return True


def _make_room(root: Path, unfinished: Path, plan: dict[str, Any], force: bool) -> bool:
    """Take away what a former set leaves in the way; false if the set itself is there.

    Raises:
        ValueError: As :func:`write_dataset`.
    """
    # The unfinished manifest marks files as ours before the first one is written. The order of
    # these three lines matters when another process writes the same set: it leaves the folders
    # occupied only after it has marked them, and takes the mark away only once it has finished.
    occupied = [top for top in (root / 'coco', root / _ADE_ROOT) if top.exists()]
    started = _read_plan(unfinished)
    finished = _read_plan(root / MANIFEST)
    found = finished or started

    if finished == plan and not force:
        return False
    if found is None and occupied:
        raise ValueError(
            f'{occupied[0]} is there already and holds no drawn shapes, choose another folder'
        )
    if found not in (None, plan) and not force:
        changed = ', '.join(key for key in plan if found.get(key) != plan[key])
        raise ValueError(
            f'{root} holds drawn shapes with other parameters ({changed}), '
            'choose another folder or draw over them with --force (force=True)'
        )
    root.mkdir(parents=True, exist_ok=True)
    if finished:
        os.replace(root / MANIFEST, unfinished)
    if found not in (None, plan):
        # mmseg takes every picture in its folder, so none of the former set may be left over.
        for split in SPLITS:
            for number in range(1, found[f'num_{split}'] + 1):
                for path in _picture_paths(root, split, number):
                    path.unlink(missing_ok=True)
    return True


def _write_pictures(
    root: Path, plan: dict[str, Any], progress: Callable[[int, int], None] | None
) -> None:
    """Write the pictures, label maps and annotations of a plan."""
    classes = plan['classes']
    total = plan['num_train'] + plan['num_val']
    done = 0
    for split in SPLITS:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for path in _picture_paths(root, split, 1):
            path.parent.mkdir(parents=True, exist_ok=True)
        for index in range(plan[f'num_{split}']):
            number = index + 1
            drawing = draw_image(plan['seed'], split, index, plan['size'], classes)
            coco_path, ade_path, label_path = _picture_paths(root, split, number)
            picture = _encode_png(drawing.image)
            _write_bytes(coco_path, picture)
            _write_bytes(ade_path, picture)
            _write_bytes(label_path, _encode_png(drawing.label_map()))
            height, width = plan['size']
            images.append(
                {'id': number, 'file_name': coco_path.name, 'height': height, 'width': width}
            )
            for annotation in _coco_annotations(drawing):
                ids = {'id': len(annotations) + 1, 'image_id': number}
                annotations.append({**ids, **annotation})
            done += 1
            if progress is not None:
                progress(done, total)
        annotation_path = root / 'coco' / 'annotations' / f'instances_{split}2017.json'
        annotation_path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            'info': {'description': f'Drawn shapes, {split}', 'version': str(VERSION)},
            'licenses': [],
            'categories': [
                {'id': label + 1, 'name': name, 'supercategory': 'shape'}
                for label, name in enumerate(classes)
            ],
            'images': images,
            'annotations': annotations,
        }
        _write_json(annotation_path, content)
    lines = [f'{number}\t{name}\n' for number, name in enumerate(['background', *classes], 1)]
    _write_bytes(root / _ADE_ROOT / 'classes.txt', ''.join(lines).encode())


def _coco_annotations(drawing: Drawing) -> Iterator[dict[str, Any]]:
    """Yield the annotations of a picture, without the ids of annotation and picture."""
    # Run lengths and not polygons: only they hold rings and shapes cut in two exactly.
    by_column = np.asfortranarray(drawing.masks.transpose(1, 2, 0), dtype=np.uint8)
    runs = coco_mask.encode(by_column)
    instances = zip(drawing.masks, drawing.labels, drawing.boxes(), runs, strict=True)
    for mask, label, box, run in instances:
        yield {
            'category_id': int(label) + 1,
            'bbox': box.tolist(),
            'area': int(mask.sum()),
            'iscrowd': 0,
            'segmentation': {'size': list(mask.shape), 'counts': run['counts'].decode()},
        }


def _picture_paths(root: Path, split: str, number: int) -> tuple[Path, Path, Path]:
    """Return where a picture goes for COCO and for ADE20K, and where its label map goes."""
    name = f'{number:06d}.png'
    ade_split = _ADE_SPLITS[split]
    return (
        root / 'coco' / f'{split}2017' / name,
        root / _ADE_ROOT / 'images' / ade_split / name,
        root / _ADE_ROOT / 'annotations' / ade_split / name,
    )


def _read_plan(path: Path) -> dict[str, Any] | None:
    """Return the plan in a manifest, or None if there is no such file."""
    try:
        plan = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        plan = None
    if not isinstance(plan, dict) or plan.get('kind') != _KIND:
        raise ValueError(f'{path} is no manifest of drawn shapes, choose another folder')
    return plan


def _write_json(path: Path, content: dict[str, Any]) -> None:
    _write_bytes(path, (json.dumps(content) + '\n').encode())


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that no other process ever sees a part of it."""
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_bytes(content)
    os.replace(part, path)


def _encode_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format='PNG')
    return buffer.getvalue()


def _check_int(name: str, value: int, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if not low <= number <= high:
        raise ValueError(f'{name} is {value!r}, allowed are whole numbers from {low} to {high}')
    return number


def _check_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
    try:
        height, width = (_check_int('size', side, *SIDES) for side in sides)
    except ValueError:
        raise ValueError(
            f'size is {size!r}, allowed are one side or height and width, '
            f'each from {SIDES[0]} to {SIDES[1]} pixels'
        ) from None
    return height, width


def _check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if not names or len(set(names)) < len(names) or not set(names) <= set(CLASSES):
        raise ValueError(
            f'classes are {", ".join(map(str, names)) or "none"}, '
            f'allowed are different names out of {", ".join(CLASSES)}'
        )
    return names


def _draw_int(rng: np.random.RandomState, low: int, high: int) -> int:
    """Draw a whole number from low to high, both included."""
    return int(rng.randint(low, high + 1, dtype=np.int64))


def _draw_colour(rng: np.random.RandomState, others: list[np.ndarray]) -> np.ndarray:
    """Draw an RGB colour, ``(3,)`` int64, that stands out from others."""
    candidates = rng.randint(0, 256, (_COLOURS_TRIED, 3), dtype=np.int64)
    distances = np.abs(candidates[:, None] - np.stack(others)).sum(axis=2)
    return candidates[distances.min(axis=1).argmax()]


def _nearby_colour(rng: np.random.RandomState, colour: np.ndarray, contrast: int) -> np.ndarray:
    """Draw an RGB colour, ``(3,)`` int64, at most ``contrast`` per channel off another one."""
    return (colour + rng.randint(-contrast, contrast + 1, 3, dtype=np.int64)).clip(0, 255)


def _blend(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mix two colours pixel by pixel: ``(H, W)`` weights of 0 to 256 give ``(H, W, 3)`` int64."""
    return first + ((second - first) * weights[:, :, None] >> 8)


def _draw_texture(rng: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """Draw a texture as weights of the second of two colours, ``(H, W)`` int64 of 0 to 256."""
    side = min(height, width)
    kind = _TEXTURES[_draw_int(rng, 0, len(_TEXTURES) - 1)]
    if kind == 'speckle':
        return rng.randint(0, 257, (height, width), dtype=np.int64)
    if kind == 'blotches':
        return _draw_blotches(rng, height, width, _draw_int(rng, side // 16, side // 4))

    across, down = _pixel_centres(height, width)
    turn = _draw_int(rng, 0, _TURN - 1)
    along = _project(across, down, turn)
    if kind == 'gradient':
        return (along - along.min()) * 256 // (along.max() - along.min())
    band = _draw_int(rng, side // 24, side // 8) << (_UNIT_BITS + 1)
    bands = along // band
    if kind == 'checks':
        bands = bands + _project(across, down, turn + _TURN // 4) // band
    return (bands & 1) << 8


def _draw_blotches(rng: np.random.RandomState, height: int, width: int, cell: int) -> np.ndarray:
    """Enlarge coarse noise by ``cell`` with linear interpolation, ``(H, W)`` int64 of 0 to 256."""
    noise = rng.randint(0, 257, (height // cell + 2, width // cell + 2), dtype=np.int64)
    row, below = np.divmod(np.arange(height, dtype=np.int64)[:, None], cell)
    column, right = np.divmod(np.arange(width, dtype=np.int64), cell)
    rows = noise[row[:, 0]] * (cell - below) + noise[row[:, 0] + 1] * below
    return (rows[:, column] * (cell - right) + rows[:, column + 1] * right) // (cell * cell)


def _place(
    rng: np.random.RandomState,
    name: str,
    height: int,
    width: int,
    masks: list[np.ndarray],
    whole_areas: list[int],
) -> np.ndarray | None:
    """Find a place for a shape where enough of all the shapes below it stays visible.

    Returns:
        The mask of the shape, ``(H, W)`` bool, or None if no place was found.
    """
    side = min(height, width)
    low, high = (side * percent // 100 for percent in _DIAMETER_PERCENT)
    for _ in range(_TRIES):
        # In half pixels, as all coordinates here, so this is the radius of a whole-pixel diameter.
        radius = _draw_int(rng, low, high)
        across, down = _pixel_centres(height, width)
        across = across - _draw_int(rng, radius, 2 * width - radius)
        down = down - _draw_int(rng, radius, 2 * height - radius)
        mask = _shape_mask(name, across, down, radius, _draw_int(rng, 0, _TURN - 1))
        left = [int((below & ~mask).sum()) for below in masks]
        if all(map(_is_visible, left, whole_areas)):
            return mask
    return None


def _is_visible(pixels: int, whole_area: int) -> bool:
    return pixels >= MIN_VISIBLE_PIXELS and 100 * pixels >= MIN_VISIBLE_PERCENT * whole_area


def _shape_mask(
    name: str, across: np.ndarray, down: np.ndarray, radius: int, turn: int
) -> np.ndarray:
    """Return the pixels of a shape inscribed in a circle.

    Args:
        name: One of :data:`CLASSES`.
        across: ``(1, W)`` int64, half pixels from the centre to the right.
        down: ``(H, 1)`` int64, half pixels from the centre down.
        radius: Radius of the circle in half pixels.
        turn: Rotation in steps of 6 degrees; it does not alter circles and rings.

    Returns:
        ``(H, W)`` bool.
    """
    if name in ('circle', 'ring'):
        squares = across * across + down * down
        hole = (radius * 9 // 16) ** 2 if name == 'ring' else -1
        return (squares <= radius * radius) & (squares > hole)

    # The others are bounded by straight lines, given by direction and distance from the centre.
    if name == 'triangle':
        edges = [_project(across, down, turn + step) for step in range(0, _TURN, _TURN // 3)]
        return np.max(edges, axis=0) <= _sine(5) * radius
    if name == 'star':
        # Inside all five lines lies the core of a pentagram, outside just one of them its tips.
        edges = [_project(across, down, turn + step) for step in range(0, _TURN, _TURN // 5)]
        return np.sum(np.array(edges) <= _sine(3) * radius, axis=0) >= 4
    first = np.abs(_project(across, down, turn))
    second = np.abs(_project(across, down, turn + _TURN // 4))
    outer, inner = np.maximum(first, second), np.minimum(first, second)
    unit = radius << _UNIT_BITS
    if name == 'square':
        return outer <= unit * 181 // 256
    return (outer <= unit * 15 // 16) & (inner <= unit * 5 // 16)


def _pixel_centres(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixel centres in half pixels, ``(1, W)`` to the right and ``(H, 1)`` down."""
    across = 2 * np.arange(width, dtype=np.int64)[None, :] + 1
    down = 2 * np.arange(height, dtype=np.int64)[:, None] + 1
    return across, down


def _project(across: np.ndarray, down: np.ndarray, turn: int) -> np.ndarray:
    """Return how far points lie in a direction, ``(H, W)`` int64 in units of 1 / 2**14."""
    return across * _sine(turn + _TURN // 4) + down * _sine(turn)


def _sine(turn: int) -> int:
    """Return the sine of an angle in steps of 6 degrees, in units of 1 / 2**14."""
    half, step = divmod(turn % _TURN, _TURN // 2)
    value = _SINES[min(step, _TURN // 2 - step)]
    return -value if half else value

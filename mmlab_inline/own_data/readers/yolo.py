"""YOLO's text files: a line per object, its box or its polygon in parts of the picture."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ...utils import UserError
from .data import OwnData, Picture, make_object
from .folder import Folder, read_lines, size_of

_NAME_FILES = ('classes.txt', 'obj.names', 'classes.names')


def find_yolo(folder: Folder) -> list[Path]:
    """The text files below a folder called as one of its pictures, if any of them holds numbers."""
    stems = {path.stem for path in folder.pictures}
    texts = [
        path
        for path in folder.with_suffix('.txt')
        if path.stem in stems and path.name not in _NAME_FILES
    ]
    return texts if any(map(_is_numbers, texts)) else []


def read_yolo(folder: Folder, files: Sequence[Path]) -> OwnData:
    """Read a YOLO folder.

    Lines are ``class x y width height`` (centre first) or ``class x1 y1 x2 y2 x3 y3 ...``, all but
    the class in parts of the picture. A picture without a file has no object. Names come from
    data.yaml or classes.txt, splits from the names of the folders.

    Args:
        folder: Where the pictures lie too.
        files: As :func:`find_yolo` returns them.

    Raises:
        UserError: A line is something else, or its class has no name.
    """
    classes = _class_names(folder)
    notes = []
    if classes is None:
        words = {line.split()[0] for path in files for line in read_lines(path)}
        count = 1 + max((int(word) for word in words if word.isdecimal()), default=0)
        classes = [f'class_{number}' for number in range(count)]
        notes.append('neither data.yaml nor classes.txt names the classes; --classes does')
    data = OwnData(folder.root, 'YOLO', classes, {}, notes=notes)
    texts = {}
    for path in files:
        picture = folder.find_picture(path.stem, path)
        if picture in texts:
            raise UserError(
                f'{folder.relative(path)} and {folder.relative(texts[picture])} both annotate '
                f'{folder.relative(picture)}; remove one of them'
            )
        texts[picture] = path
    for path in folder.pictures:
        if path not in texts and folder.is_label_map(path):
            continue
        size = size_of(path)
        lines = read_lines(texts[path]) if path in texts else []
        objects = [
            _parse(line, size, len(classes), f'{texts[path]} line {number}')
            for number, line in enumerate(lines, 1)
        ]
        split = folder.split_of(path)
        data.splits.setdefault(split, []).append(Picture(path, size, objects))
    return data


def _is_numbers(path: Path) -> bool:
    try:
        for line in read_lines(path):
            list(map(float, line.split()))
    except (ValueError, UserError):
        return False
    return True


def _class_names(folder: Folder) -> list[str] | None:
    described = folder.named('data.yaml', 'data.yml', 'dataset.yaml')
    if described:
        try:
            names = yaml.safe_load(described.read_bytes())['names']
            if isinstance(names, dict):
                names = {int(number): name for number, name in names.items()}
                names = [names.get(number, f'class_{number}') for number in range(max(names) + 1)]
            if not isinstance(names, list):
                raise TypeError
        except (yaml.YAMLError, KeyError, TypeError, ValueError):
            raise UserError(
                f'{described} has no list of names; write names: [first, second, ...] in it'
            ) from None
        return [str(name) for name in names]
    listed = folder.named(*_NAME_FILES)
    return [line.strip() for line in read_lines(listed)] if listed else None


def _parse(line: str, size: tuple[int, int], num_classes: int, place: str) -> dict:
    height, width = size
    words = line.split()
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        numbers = []
    if not words[0].isdecimal() or (len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2)):
        raise UserError(
            f'{place} is neither "class x y width height" nor "class x1 y1 x2 y2 x3 y3 ..."; '
            'export it again as YOLO detection or segmentation'
        )
    label = int(words[0])
    if label >= num_classes:
        raise UserError(
            f'{place} is of class {label}, but there are names for {num_classes} classes, counted '
            'from 0; add the names to data.yaml or classes.txt'
        )
    beyond = [number for number in numbers if not abs(number) <= 2]  # nan too
    if beyond:
        raise UserError(
            f'{place} holds {beyond[0]:g}: YOLO has parts of the picture, not pixels; '
            'divide x by the width and y by the height'
        )
    if len(numbers) == 4:
        x, y, w, h = numbers
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        return make_object(label, size, box)
    xs = [x * width for x in numbers[::2]]
    ys = [y * height for y in numbers[1::2]]
    box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return make_object(label, size, box, [polygon])

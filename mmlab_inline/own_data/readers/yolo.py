"""YOLO's text files: a line per object, its box or its polygon in parts of the picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from ...utils import UserError, counted
from .data import OwnData, Picture, identifier, make_object
from .folder import Folder, read_lines, size_of
from .lists import assign, listed_pictures
from .names import list_split, normal, path_parts

_NAME_FILES = ('classes.txt', 'obj.names', 'classes.names')
_DESCRIPTIONS = ('data.yaml', 'data.yml', 'dataset.yaml')
_SLACK = 0.02  # rounding, of parts of the picture
_FORMS = '"class x y width height" nor "class x1 y1 x2 y2 x3 y3 ..."'
_EXPORT = 'export it again as YOLO detection or segmentation'


@dataclass(frozen=True)
class _Line:
    place: str
    label: int
    numbers: list[float]


def find_yolo(folder: Folder) -> list[Path]:
    """The text files below a folder that are called as its pictures or hold YOLO's numbers."""
    texts = [p for p in folder.with_suffix('.txt') if p.name.lower() not in _NAME_FILES]
    fitting = [p for p in texts if folder.has(p.stem)]
    apart = [p for p in texts if not (folder.has(p.stem) or list_split(p.stem)) and _is_yolo(p)]
    return [*fitting, *apart] if apart or any(map(_is_numbers, fitting)) else []


def read_yolo(folder: Folder, files: Sequence[Path], dialect: str | None = None) -> OwnData:
    """Read a YOLO folder.

    Lines are ``class x y width height`` (centre first), perhaps with key points, or
    ``class x1 y1 x2 y2 x3 y3 ...``, all but the class in parts of the picture. A picture without a
    file has no object. Names come from a .yaml or classes.txt, splits from the .yaml too.

    Args:
        folder: Where the pictures lie too.
        files: As :func:`find_yolo` returns them.
        dialect: ``'polygons'`` or ``'pose'`` for lines that may be either; None to find it out.

    Raises:
        UserError: A line is something else, or its class has no name; a file fits no picture.
    """
    notes: list[str] = []
    path, described = _description(folder)
    texts, apart = {}, []
    for file in files:
        picture = folder.find_picture(file.stem, file)
        if picture is None:
            apart.append(folder.relative(file))
        elif picture in texts:
            raise UserError(
                f'{folder.relative(file)} and {folder.relative(texts[picture])} both annotate '
                f'{folder.relative(picture)}; remove one of them'
            )
        else:
            texts[picture] = file
    if apart:
        raise UserError(
            f'{len(apart)} of {len(files)} label files fit no picture, such as {apart[0]}; put the '
            'pictures there, or remove the label files'
        )
    lines = {picture: _parse(file) for picture, file in texts.items()}
    every = [line for found in lines.values() for line in found]
    classes = _class_names(folder, path, described)
    if classes is None:
        classes = [f'class_{n}' for n in range(1 + max((line.label for line in every), default=0))]
        notes.append('neither data.yaml nor classes.txt names the classes; --classes does')
    pose = _points_of_pose(every, described, dialect)
    if pose:
        notes.append('lines hold key points, which are left out: the boxes are read')
    data = OwnData(folder.root, 'YOLO', classes, {}, notes=notes)
    data.listed = _described_splits(folder, path, described, notes) if path else None
    annotated = {normal(picture.stem) for picture in texts}
    places = {picture.parent for picture in texts}
    copies = 0
    background = set(folder.may_be_photographs(folder.pictures))
    for picture in folder.pictures:
        if picture not in texts and picture not in background:
            continue
        if picture.parent not in places and normal(picture.stem) in annotated:
            copies += 1
            continue
        size = size_of(picture)
        make = partial(_object, size=size, num_classes=len(classes), pose=pose)
        objects = list(map(make, lines.get(picture, ())))
        made = Picture(picture, size, objects)
        data.splits.setdefault(folder.split_of(picture), []).append(made)
    if copies:
        notes.append(
            'pictures called as annotated ones, in folders where none is annotated, left out: '
            f'{copies}'
        )
    return data


def _is_numbers(path: Path) -> bool:
    """Whether numbers follow the first word of every line."""
    try:
        lines = [list(map(float, line.split()[1:])) for line in read_lines(path)]
    except (ValueError, UserError):
        return False
    return all(lines)


def _is_yolo(path: Path) -> bool:
    try:
        lines = _parse(path)
    except UserError:
        return False
    return bool(lines)


def _description(folder: Folder) -> tuple[Path | None, dict]:
    """The .yaml that names classes, and what is in it."""
    path = folder.named(*_DESCRIPTIONS)
    others = [] if path else folder.with_suffix('.yaml', '.yml')
    found = [(other, content) for other in others if 'names' in (content := _load(other))]
    if len(found) > 1:
        first, second = (folder.relative(other) for other, _ in found[:2])
        raise UserError(f'{first} and {second} both name classes; leave one of them in the folder')
    return found[0] if found else (path, _load(path) if path else {})


def _load(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _class_names(folder: Folder, path: Path | None, described: dict) -> list[str] | None:
    if not path:
        listed = folder.named(*_NAME_FILES)
        return [line.strip() for line in read_lines(listed)] if listed else None
    try:
        names = described['names']
        if isinstance(names, dict):
            names = {int(number): name for number, name in names.items()}
            names = [names.get(number, f'class_{number}') for number in range(max(names) + 1)]
        if not isinstance(names, list):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f'{path} has no list of names; write names: [first, second, ...] in it'
        ) from None
    return [str(name) for name in names]


def _described_splits(
    folder: Folder, path: Path, described: dict, notes: list[str]
) -> dict[Path, str] | None:
    """Split of each picture as train, val and test in a .yaml say; None where they say nothing."""
    members: dict[str, set[Path]] = {}
    for key, value in described.items():
        split = list_split(str(key))
        for entry in value if isinstance(value, list) else [value]:
            if not split or not isinstance(entry, str):
                continue
            found = _pictures_at(folder, path, described.get('path'), entry, notes)
            if found:
                members.setdefault(split, set()).update(found)
            elif split != 'test':
                notes.append(f'{path.name} has {key}: {entry}, where no picture lies: not used')
                return None
    return assign(members, notes) if members else None


def _pictures_at(
    folder: Folder, path: Path, base: object, entry: str, notes: list[str]
) -> Iterable[Path]:
    """The pictures of a folder or list, as a .yaml of this or another machine names it."""
    parts = [part for part in path_parts(entry) if '*' not in part]
    start = path_parts(str(base or ''))
    lists = [p for p in folder.with_suffix('.txt') if not folder.has(p.stem)]
    places = dict.fromkeys(at for p in folder.pictures for at in p.parents)
    known = [p for p in (*lists, *places) if p.is_relative_to(folder.root)]
    at = path.parent.relative_to(folder.root).parts
    exact = [(*map(normal, at), *start, *parts), (*map(normal, at), *parts), tuple(parts)]
    named = {tuple(map(normal, p.relative_to(folder.root).parts)): p for p in known}
    for wanted in exact + [tuple(parts[n:]) for n in range(1, len(parts))]:
        ends = [p for key, p in named.items() if key[len(key) - len(wanted) :] == wanted]
        found = named.get(wanted) or (ends[0] if wanted and len(ends) == 1 else None)
        if found in lists:
            return listed_pictures(folder, found, notes)
        if found:
            return folder.may_be_photographs(p for p in folder.pictures if p.is_relative_to(found))
    return ()


def _parse(path: Path) -> list[_Line]:
    found = []
    for count, line in enumerate(read_lines(path), 1):
        word, *words = line.split()
        label, place = identifier(word), f'{path} line {count}'
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        if not isinstance(label, int) or label < 0 or len(numbers) < 4:
            raise UserError(f'{place} is neither {_FORMS}, but {line.strip()[:60]!r}; {_EXPORT}')
        beyond = [number for number in numbers if not abs(number) <= 2]  # nan too
        if beyond:
            raise UserError(
                f'{place} holds {beyond[0]:g}: YOLO has parts of the picture, not pixels; '
                'divide x by the width and y by the height'
            )
        found.append(_Line(place, label, numbers))
    return found


def _points_of_pose(lines: Sequence[_Line], described: dict, dialect: str | None) -> int:
    """How many numbers of key points follow a box; 0 where lines are polygons or boxes alone.

    Raises:
        UserError: Lines may be polygons or boxes with key points.
    """
    long = [line for line in lines if len(line.numbers) > 4]
    counts = {len(line.numbers) - 4 for line in long}
    if dialect == 'polygons' or len(counts) != 1:
        return 0
    (count,) = counts
    shape = described.get('kpt_shape')  # number of points, and numbers of each
    if dialect == 'pose' or shape in [[count / d, d] for d in (2, 3)]:
        return count
    # Marks of key points, 0, 1 or 2 if seen; no corner of a polygon lies at 2.
    marks = {mark for line in long for mark in line.numbers[6::3]} if count % 3 == 0 else {-1}
    if marks <= {0, 1, 2} and (count % 2 or 2 in marks):
        return count
    if marks <= {0, 1, 2} or (count % 2 == 0 and all(map(_holds_its_points, long))):
        raise UserError(
            f'{long[0].place} may be a polygon or a box with key points, as may all the lines; '
            'choose by --format yolo-polygons or --format yolo-pose'
        )
    return 0


def _holds_its_points(line: _Line) -> bool:
    """Whether a line may be a box in the picture, and points in the box."""
    x, y, width, height, *rest = line.numbers
    sides = (x, width, rest[::2]), (y, height, rest[1::2])
    return all(
        abs(at - 0.5) + side / 2 < 0.5 + _SLACK
        and all(abs(point - at) < side / 2 + _SLACK for point in points if point)
        for at, side, points in sides
    )


def _object(line: _Line, size: tuple[int, int], num_classes: int, pose: int) -> dict:
    height, width = size
    if line.label >= num_classes:
        raise UserError(
            f'{line.place} is of class {line.label}, but there are names for '
            f'{counted(num_classes, "class")}, counted from 0; add the names to data.yaml or '
            'classes.txt'
        )
    numbers = line.numbers
    if len(numbers) == 4 or len(numbers) == 4 + pose:
        x, y, w, h = numbers[:4]
        box = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        return make_object(line.label, size, box)
    if len(numbers) < 6 or len(numbers) % 2:
        raise UserError(
            f'{line.place} is neither {_FORMS}: {len(numbers)} numbers follow the class; {_EXPORT}'
        )
    xs = [x * width for x in numbers[::2]]
    ys = [y * height for y in numbers[1::2]]
    box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    polygon = [value for point in zip(xs, ys, strict=True) for value in point]
    return make_object(line.label, size, box, [polygon])

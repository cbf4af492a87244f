"""Pascal VOC's XML files of boxes, as LabelImg, CVAT and others write them."""

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ...utils import UserError
from .data import OwnData, Picture, make_object
from .folder import Folder, read_lines, refuse_missing, size_of
from .split import SPLITS


def find_voc(folder: Folder) -> list[Path]:
    """The XML files below a folder that annotate a picture."""
    found = []
    for path in folder.with_suffix('.xml'):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, LookupError, ValueError):  # the last two: its encoding
            raise UserError(f'{path} is no XML in UTF-8; export it again or remove it') from None
        if root.tag == 'annotation':
            found.append(path)
    return found


def read_voc(folder: Folder, files: Sequence[Path]) -> OwnData:
    """Read Pascal VOC's boxes.

    Corners are pixels counted from 1, both inside of the box; objects marked difficult become
    crowds, which neither training nor evaluation counts. Classes are in alphabetical order. Splits
    come from ImageSets/Main, else from the names of the folders.

    Args:
        folder: Where the pictures lie too.
        files: As :func:`find_voc` returns them.

    Raises:
        UserError: A file is damaged or its picture missing.
    """
    trees = {path: ElementTree.parse(path).getroot() for path in files}
    classes = sorted(
        {_text(item, 'name', path) for path, root in trees.items() for item in root.iter('object')}
    )
    lists = read_lists(folder, 'Main')
    data = OwnData(folder.root, 'Pascal VOC', classes, {})
    missing = []
    for path, root in trees.items():
        name = root.findtext('filename') or path.stem
        # Renamed pictures keep their old name inside of the file.
        found = folder.find_picture(path.stem, path) or folder.find_picture(name, path)
        if found is None:
            missing.append(name)
            continue
        split = lists.get(path.stem) if lists else folder.split_of(path)
        # As annotated: check_image finds pictures that load otherwise, such as turned ones.
        size = [int(_number(root, f'size/{side}', path, '0')) for side in ('height', 'width')]
        picture = Picture(found, tuple(size) if all(size) else size_of(found))
        for item in root.iter('object'):
            box = item.find('bndbox')
            if box is None:
                raise UserError(f'{path}: an object has no bndbox; export it again as Pascal VOC')
            left, top, right, bottom = (
                _number(box, side, path) for side in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            label = classes.index(_text(item, 'name', path))
            extent = left - 1, top - 1, right - left + 1, bottom - top + 1
            iscrowd = int(item.findtext('difficult', '0').strip() == '1')
            picture.objects.append(make_object(label, picture.size, extent, iscrowd=iscrowd))
        data.splits.setdefault(split, []).append(picture)
    refuse_missing(missing, len(trees), 'the XML files', folder.root)
    if lists and None in data.splits:
        left_out = len(data.splits.pop(None))
        data.notes.append(f'pictures in no list of ImageSets/Main, left out: {left_out}')
    return data


def read_lists(folder: Folder, kind: str) -> dict[str, str]:
    """Split of each picture, by stem, out of ImageSets/KIND/{train,val,test}.txt, if they exist."""
    words: dict[str, str] = {}
    splits: dict[str, str] = {}
    for path in folder.with_suffix('.txt'):
        if path.parts[-3:-1] == ('ImageSets', kind) and path.stem in SPLITS:
            lines = read_lines(path)
            # A name may hold blanks, or be followed by a flag.
            words |= {line.split()[0]: path.stem for line in lines}
            splits |= {line.strip().strip('"'): path.stem for line in lines}
    return words | splits


def _text(node: ElementTree.Element, name: str, path: Path, default: str | None = None) -> str:
    text = node.findtext(name, default)
    if not text or not text.strip():
        raise UserError(f'{path}: <{node.tag}> lacks <{name}>; export it again as Pascal VOC')
    return text.strip()


def _number(node: ElementTree.Element, name: str, path: Path, default: str | None = None) -> float:
    text = _text(node, name, path, default)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f'{path}: <{name}> is {text!r}, which is no number; export it again as Pascal VOC'
        )
    return number

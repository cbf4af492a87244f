"""Pascal VOC's XML files of boxes, as LabelImg, CVAT and others write them."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from ...utils import UserError
from .data import OwnData, Picture, make_object, number
from .folder import Folder, size_of

_EXPORT = 'export it again as Pascal VOC'


def find_voc(folder: Folder) -> dict[Path, ElementTree.Element]:
    """The XML files below a folder that annotate a picture, with their roots."""
    found = {}
    for path in folder.with_suffix('.xml'):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, LookupError, ValueError):  # the last two: its encoding
            raise UserError(f'{path} is no XML in UTF-8; export it again or remove it') from None
        if root.tag == 'annotation':
            found[path] = root
    return found


def read_voc(folder: Folder, files: Mapping[Path, ElementTree.Element]) -> OwnData:
    """Read Pascal VOC's boxes.

    Corners are pixels counted from 1, both inside of the box; objects marked difficult become
    crowds, which neither training nor evaluation counts. Classes are in alphabetical order.

    Args:
        folder: Where the pictures lie too.
        files: As :func:`find_voc` returns them.

    Raises:
        UserError: A file is damaged or its picture missing.
    """
    classes = sorted(
        {_text(item, 'name', path) for path, root in files.items() for item in root.iter('object')}
    )
    data = OwnData(folder.root, 'Pascal VOC', classes, {})
    missing = []
    for path, root in files.items():
        name = (root.findtext('filename') or '').strip() or path.stem
        # Renamed pictures keep their old name inside of the file.
        found = folder.find_picture(path.stem, path) or folder.find_picture(name, path)
        if found is None:
            missing.append(name)
            continue
        # As annotated: check_image finds pictures that load otherwise, such as turned ones.
        size = [int(_number(root, f'size/{side}', path, '0')) for side in ('height', 'width')]
        picture = Picture(found, tuple(size) if all(size) else size_of(found))
        for item in root.iter('object'):
            box = item.find('bndbox')
            if box is None:
                raise UserError(f'{path}: an object has no bndbox; {_EXPORT}')
            left, top, right, bottom = (
                _number(box, side, path) for side in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            label = classes.index(_text(item, 'name', path))
            extent = left - 1, top - 1, right - left + 1, bottom - top + 1
            iscrowd = int((item.findtext('difficult') or '').strip().lower() in ('1', 'true'))
            picture.objects.append(make_object(label, picture.size, extent, iscrowd=iscrowd))
        data.splits.setdefault(folder.split_of(path), []).append(picture)
    folder.refuse_missing(missing, len(files), 'the XML files')
    return data


def _text(node: ElementTree.Element, name: str, path: Path, default: str | None = None) -> str:
    text = node.findtext(name, default)
    if not text or not text.strip():
        raise UserError(f'{path}: <{node.tag}> lacks <{name}>; {_EXPORT}')
    return text.strip()


def _number(node: ElementTree.Element, name: str, path: Path, default: str | None = None) -> float:
    return number(_text(node, name, path, default), f'{path}: <{name}>', _EXPORT)

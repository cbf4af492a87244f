"""What names tell: one normal form to compare them in, and the words of folders and splits.

The words are those of COCO, YOLO, Roboflow, Pascal VOC, CVAT, labelme, Label Studio, Cityscapes
and mmseg.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal
from urllib.parse import unquote

Role = Literal['photograph', 'label map', 'neither']

SPLITS = ('train', 'val', 'test')
_SPLIT_WORDS = {
    **dict.fromkeys(('train', 'training', 'trainval'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation', 'minival', 'eval', 'evaluation'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
_PHOTOGRAPHS = frozenset({'rgb'}).union(
    *({w, w + 's'} for w in ('image', 'img', 'photo', 'photograph', 'picture', 'pic'))
)
_LABEL_MAPS = frozenset({'gt', 'groundtruth', 'truth', 'semantic', 'segmentationclass'}).union(
    *({w, w + 's'} for w in ('annotation', 'ann', 'annot', 'label', 'mask', 'seg', 'segmentation'))
)
# Label maps of single objects, and pictures made to look at: nothing here reads them.
_OBJECTS = {'object', 'objects', 'instance', 'instances', 'panoptic'}
_SHOWN = frozenset({'vis', 'viz'}).union(
    *({w, w + 's'} for w in ('visualization', 'visualisation', 'overlay', 'preview', 'thumbnail'))
)
_COLOURS = {'color', 'colors', 'colour', 'colours'}
_FILLERS = {'dir', 'ground', 'folder', 'data', 'set', 'png', 'jpeg'}
_LIST_FILLERS = {'', 'autosplit', 'list', 'set', 'split', 'images', 'files', 'names', 'ids', 'data'}


def normal(name: str) -> str:
    """A name as names compare: percent-decoded, in one Unicode form, without case."""
    while (decoded := unquote(name)) != name:
        name = decoded
    return unicodedata.normalize('NFC', name).casefold()


def path_parts(name: str) -> tuple[str, ...]:
    """The parts of a path or URL of any machine, normal, without those that lead nowhere."""
    return tuple(part for part in re.split(r'[/\\]+', normal(name)) if part not in ('', '.', '..'))


def split_word(parts: Sequence[str]) -> str | None:
    """``'train'``, ``'val'``, ``'test'`` or None, as the last telling part of a path says."""
    for part in reversed(parts):
        for word in re.split('[^a-z]+', part.lower()):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None


def list_split(stem: str) -> str | None:
    """The split, ``'trainval'`` among them, whose pictures a text file of this name lists."""
    words = [w for w in re.split('[^a-z]+', stem.lower()) if w not in _LIST_FILLERS]
    return {**_SPLIT_WORDS, 'trainval': 'trainval'}.get(*words) if len(words) == 1 else None


@cache
def role_of(name: str) -> Role | None:
    """What a folder of this name holds, or a file with this ending is."""
    words = _words(name)
    if words & _SHOWN or (words & _OBJECTS and words & _LABEL_MAPS):
        return 'neither'
    if words & _LABEL_MAPS:
        return 'label map'
    return 'photograph' if words & _PHOTOGRAPHS else None


def role_of_stem(stem: str) -> Role | None:
    """What a file is by the endings of its name, such as ``_mask`` or ``_gtFine_labelIds``."""
    return role_of(stem[len(_without_endings(stem)[-1]) :])


def stems(stem: str) -> Iterator[str]:
    """A stem as pictures and label maps share it, normal: whole, then without endings and starts
    such as ``_mask``, ``_leftImg8bit``, ``img_``.
    """
    for part in _without_endings(stem):
        yield normal(part)
    start = re.match('([^-_. ]+)[-_. ]+(.+)', part)
    if start and role_of(start[1]):
        yield normal(start[2])


def place(folders: Sequence[str]) -> tuple[str, ...]:
    """Folders without what tells pictures, label maps and splits apart."""
    pieces = (piece for folder in folders for piece in re.split('[-_. ]+', folder))
    return tuple(normal(p) for p in pieces if p and not (_tells(p) or split_word([p])))


def preference(name: str) -> int:
    """Which of several label maps of one picture counts: training ids, others, colours."""
    return 2 * bool(_words(name) & _COLOURS) - ('trainids' in name.lower())


def _tells(piece: str) -> bool:
    return bool(role_of(piece) or _words(piece) & (_COLOURS | _OBJECTS | _FILLERS))


def _without_endings(stem: str) -> list[str]:
    found = [stem]
    while (match := re.match('(.+)[-_. ]+([^-_. ]+)', found[-1])) and _tells(match[2]):
        found.append(match[1])
    # An ending such as _color says something only beside another.
    return found if role_of(stem[len(found[-1]) :]) else found[:1]


@cache
def _words(name: str) -> frozenset[str]:
    camel = re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z]+', name)
    return frozenset(word.lower() for word in [*camel, *re.findall('[A-Za-z]+', name)])

"""The files below a folder, and where in it a picture lies that an annotation names."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath

from ...datasets.checks import ImageLoading, check_image
from ...datasets.checks.finding import first_fatal
from ...utils import UserError

PICTURE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
_SPLIT_NAMES = {
    'train': 'train',
    'training': 'train',
    'val': 'val',
    'valid': 'val',
    'validation': 'val',
    'test': 'test',
    'testing': 'test',
}

_LABEL_MAP_FOLDERS = {
    'annotations',
    'annotation',
    'label',
    'labels',
    'mask',
    'masks',
    'gt',
    'segmentation',
    'segmentations',
    'segmentationclass',
    'seg',
    'ann',
}
LABEL_MAP_TAIL = re.compile('[-_. ](masks?|labels?|seg|gt|labelids|labeltrainids)$', re.IGNORECASE)
# Pascal VOC's label maps of single objects, which nothing here reads.
_LEFT_OUT = 'segmentationobject'


class Folder:
    """All files below a folder; links are followed, names that begin with a dot left out.

    Args:
        root: The folder.

    Raises:
        UserError: It does not exist, or holds no picture.

    Attributes:
        root: The folder, absolute.
        files: All files, sorted.
        pictures: Those that are images by their suffix, label maps among them.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            raise UserError(f'--data {root} is no folder')
        self.files: list[Path] = []
        seen = set()
        for place, folders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(place)
            folders[:] = (
                []
                if real in seen
                else sorted(f for f in folders if f[0] != '.' and f.lower() != _LEFT_OUT)
            )
            if real not in seen:
                self.files += [Path(place, file) for file in sorted(files) if file[0] != '.']
            seen.add(real)
        self.pictures = [p for p in self.files if p.suffix.lower() in PICTURE_SUFFIXES]
        if not self.pictures:
            raise UserError(f'--data {root} holds no picture ({", ".join(PICTURE_SUFFIXES)})')
        self._by_name = defaultdict(list)
        for path in self.pictures:
            self._by_name[path.name].append(path)
            self._by_name[path.stem].append(path)

    def with_suffix(self, suffix: str) -> list[Path]:
        """The files of a suffix."""
        return [path for path in self.files if path.suffix.lower() == suffix]

    def named(self, *names: str) -> Path | None:
        """The file of one of these names that lies nearest to the root, or None."""
        found = [path for path in self.files if path.name.lower() in names]
        return min(found, key=lambda path: len(path.parts), default=None)

    def relative(self, path: Path) -> str:
        """A path below the root, as it is printed and written."""
        return path.relative_to(self.root).as_posix()

    def split_of(self, path: Path, with_name: bool = False) -> str | None:
        """``'train'``, ``'val'``, ``'test'`` or None, as the folders above a file are called.

        Args:
            path: The file.
            with_name: Look at its own name too.
        """
        relative = path.relative_to(self.root)
        for part in reversed((relative if with_name else relative.parent).parts):
            for word in re.split('[^a-z]+', part.lower()):
                if word in _SPLIT_NAMES:
                    return _SPLIT_NAMES[word]
        return None

    def is_label_map(self, path: Path) -> bool:
        """Whether an image is a label map, as its folders or its own name tell."""
        folders = {part.lower() for part in path.relative_to(self.root).parent.parts}
        return bool(folders & _LABEL_MAP_FOLDERS or LABEL_MAP_TAIL.search(path.stem))

    def find_picture(self, name: str, near: Path) -> Path | None:
        """The picture that an annotation file names.

        Args:
            name: As it stands in the file; of another machine's path only the end counts.
            near: The annotation file. It decides between pictures of one name: one that is no
                label map, then with the longest common end, of the same split, of the nearest
                folder.

        Returns:
            The picture, or None if there is none.

        Raises:
            UserError: Several are as near.
        """
        parts = PurePosixPath(name.replace('\\', '/')).parts
        found = self._by_name.get(parts[-1], []) if parts else []
        split = self.split_of(near, with_name=True)

        def nearness(path: Path) -> tuple[bool, int, bool, int]:
            same = map(str.__eq__, reversed(path.parts), reversed(parts))
            end = sum(1 for _ in takewhile(bool, same))
            common = os.path.commonpath([path, near])
            same_split = self.split_of(path) == split
            return not self.is_label_map(path), end, same_split, len(Path(common).parts)

        ranked = sorted(found, key=nearness)
        if len(ranked) > 1 and nearness(ranked[-1]) == nearness(ranked[-2]):
            raise UserError(
                f'{self.relative(near)} names {name}, which may be {self.relative(ranked[-2])} or '
                f'{self.relative(ranked[-1])}; give the pictures names of their own'
            )
        return ranked[-1] if ranked else None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        UserError: It is not UTF-8.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')  # Windows' editors mark UTF-8 by three bytes
    except UnicodeDecodeError:
        raise UserError(f'{path} is not UTF-8; save it as UTF-8') from None
    return [line for line in text.splitlines() if line.strip()]


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of a picture as training loads it, turned as its EXIF data say.

    Raises:
        UserError: It is no image.
    """
    findings, size = check_image(str(path), ImageLoading(), fast=True)
    wrong = first_fatal(findings)
    if wrong:
        raise UserError(f'{wrong.file} {wrong.problem}; {wrong.remedy}')
    return size


def refuse_missing(missing: Sequence[str], total: int, source: str, root: Path) -> None:
    """Stop where annotated pictures are not there.

    Raises:
        UserError: Some are missing; names the first.
    """
    if missing:
        raise UserError(
            f'{len(missing)} of the {total} pictures that {source} names are not below {root}, '
            f'such as {missing[0]}; put them there, or take them out of the annotations'
        )

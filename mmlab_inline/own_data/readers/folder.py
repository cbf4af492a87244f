"""The files below a folder, and where in it a picture lies that an annotation names."""

import mimetypes
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

from ...datasets.checks import IMAGE_SUFFIXES, ImageLoading, check_image
from ...datasets.checks.finding import first_fatal
from ...utils import UserError
from .names import (
    Role,
    normal,
    path_parts,
    place,
    preference,
    role_of,
    role_of_stem,
    split_word,
    stems,
)

_PICTURES = ('photograph', None)


class Folder:
    """All files below a folder; links are followed, names that begin with a dot left out.

    Args:
        root: The folder.
        roles: Folders, below the root or not, that hold the photographs or the label maps.

    Raises:
        UserError: It does not exist, or holds no picture.

    Attributes:
        root: The folder, absolute.
        files: All files, sorted.
        pictures: Those that are images by their suffix, label maps among them.
        notes: What the user should know of the other files.
    """

    def __init__(self, root: str | Path, roles: Mapping[str, Role] | None = None) -> None:
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            raise UserError(f'--data {root} is no folder')
        self._roles = {self._given(name): role for name, role in (roles or {}).items()}
        self.files: list[Path] = []
        seen = set()
        for at, folders, files in os.walk(self.root, followlinks=True):
            real = os.path.realpath(at)
            folders[:] = [] if real in seen else sorted(f for f in folders if f[0] != '.')
            if real not in seen:
                self.files += [Path(at, file) for file in sorted(files) if file[0] != '.']
            seen.add(real)
        self.pictures = [p for p in self.files if p.suffix.lower() in IMAGE_SUFFIXES]
        others = [p for p in self.files if _is_other_image(p)]
        counts = Counter(path.suffix.lower() for path in others)
        kinds = ', '.join(f'{count} {suffix}' for suffix, count in counts.items())
        self.notes = []
        if others:
            self.notes.append(
                f'pictures that are not read, left out: {kinds}; save them as JPEG or PNG'
            )
        if not self.pictures:
            raise UserError(
                f'--data {root} holds no picture ({", ".join(IMAGE_SUFFIXES)})'
                + (f', but {kinds}; save them as JPEG or PNG' if others else '')
            )
        self._by_name = defaultdict(list)
        for path in self.pictures:
            for name in {normal(path.name), normal(path.stem)}:
                self._by_name[name].append(path)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.pictures:
            if self.role(path) in _PICTURES:
                for stem in dict.fromkeys(stems(path.stem)):
                    self._by_stem[stem].append(path)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files of a suffix."""
        return [path for path in self.files if path.suffix.lower() in suffixes]

    def named(self, *names: str) -> Path | None:
        """The file of one of these names that lies nearest to the root, or None."""
        found = [path for path in self.files if path.name.lower() in names]
        return min(found, key=lambda path: len(path.parts), default=None)

    def relative(self, path: Path) -> str:
        """A path below the root, as it is printed and written."""
        return path.relative_to(self.root).as_posix()

    def has(self, name: str) -> bool:
        """Whether a picture is called so, with its suffix or without."""
        return normal(name) in self._by_name

    def folders_of(self, path: Path) -> tuple[str, ...]:
        """The folders between the root and a file."""
        return path.relative_to(self.root).parent.parts

    def split_of(self, path: Path, with_name: bool = False) -> str | None:
        """``'train'``, ``'val'``, ``'test'`` or None, as the folders above a file are called.

        Args:
            path: The file.
            with_name: Look at its own name too.
        """
        return split_word(self.folders_of(path) + ((path.name,) if with_name else ()))

    def role(self, path: Path) -> Role | None:
        """What a picture is: as told, else as it and its folders are called."""
        for at, role in self._roles.items():
            if path.is_relative_to(at):
                return role
        names = map(role_of, reversed(self.folders_of(path)))
        role = role_of_stem(path.stem) or next(filter(None, names), None)
        if role == 'label map' and role in self._roles.values():
            role = None
        return 'neither' if role != 'label map' and 'photograph' in self._roles.values() else role

    def find_picture(self, name: str, near: Path) -> Path | None:
        """The picture that an annotation file names.

        Args:
            name: As it stands in the file; of another machine's path or a URL only the end counts.
            near: The annotation file. It decides between pictures of one name: one that is no
                label map, of the very name, with the longest common end, of the same split, in a
                like place, in a folder of photographs, in the nearest folder.

        Returns:
            The picture, or None if there is none.

        Raises:
            UserError: Several are as near.
        """
        found, parts = self._called(name)
        split, place = self.split_of(near, with_name=True), self._place(near)
        last = re.split(r'[/\\]', name)[-1]

        def nearness(path: Path) -> tuple:
            role = self.role(path)
            same = map(str.__eq__, map(normal, reversed(path.parts)), reversed(parts))
            end = sum(1 for _ in takewhile(bool, same))
            common = len(Path(os.path.commonpath([path, near])).parts)
            exact = last in (path.name, path.stem)
            alike = self.split_of(path) == split, self._place(path) == place
            return role in _PICTURES, exact, end, *alike, role == 'photograph', common

        return self._best(found, nearness, f'{self.relative(near)} names {name}, which')

    def _called(self, name: str) -> tuple[list[Path], tuple[str, ...]]:
        """The pictures of a name and the path in it, which may be a part of a URL's query."""
        for text in (name, *reversed(re.split('[?&=#]', name)), name.replace('+', ' ')):
            *above, last = path_parts(text) or ('',)
            # Label Studio puts eight digits before the names of uploaded files.
            for key in (last, re.sub('^[0-9a-f]{8}-', '', last)):
                if key in self._by_name:
                    return self._by_name[key], (*above, key)
        return [], ()

    def picture_of(self, label_map: Path) -> Path | None:
        """The photograph that a label map belongs to, by the names of both and of their folders.

        Returns:
            It, or None if there is none.

        Raises:
            UserError: Several may be meant.
        """
        split, at = self.split_of(label_map), self._place(label_map)

        def nearness(path: Path) -> tuple:
            same = self.split_of(path) == split, self._place(path) == at
            return *same, self.role(path) == 'photograph'

        def fits(path: Path) -> bool:
            other, there = self.split_of(path), self._place(path)
            nested = set(there) <= set(at) or set(at) <= set(there)
            return nested and (split == other or None in (split, other))

        for stem in stems(label_map.stem):
            found = [path for path in self._by_stem.get(stem, ()) if fits(path)]
            if found:
                what = f'{self.relative(label_map)} has a picture that'
                remedy = 'name the folder of the photographs by --images, or leave one file'
                return self._best(found, nearness, what, remedy)
        return None

    def label_maps(self) -> dict[Path, Path | None]:
        """The label maps below the folder, each with its picture; one of several of a picture.

        Raises:
            UserError: Several may be meant.
        """
        found: dict[Path, Path | None] = {}
        best: dict[Path, Path] = {}
        for path in self.pictures:
            if self.role(path) != 'label map':
                continue
            picture = self.picture_of(path)
            other = best.get(picture) if picture else None
            if other:
                ranks = [preference(self.relative(each)) for each in (other, path)]
                if ranks[0] == ranks[1]:
                    raise UserError(
                        f'{self.relative(other)} and {self.relative(path)} may both be the label '
                        'map of one picture; leave one of them in the folder, or name the folder '
                        'by --label-maps'
                    )
                if ranks[0] < ranks[1]:
                    continue
                del found[other]
            found[path] = picture
            if picture:
                best[picture] = path
        return found

    def refuse_missing(self, missing: Sequence[str], total: int, source: str) -> None:
        """Stop where annotated pictures are not there.

        Raises:
            UserError: Some are missing; names the first.
        """
        if not missing:
            return
        text = f'{len(missing)} of the {total} pictures that {source} names are'
        stem = Path((path_parts(missing[0]) or ('',))[-1]).stem
        for path in self.files:
            if normal(path.stem) == stem and _is_other_image(path):
                raise UserError(
                    f'{text} of a kind that is not read, such as {self.relative(path)}; save them '
                    'as JPEG or PNG'
                )
        raise UserError(
            f'{text} not below {self.root}, such as {missing[0]}; put them there, or take them out '
            'of the annotations'
        )

    def may_be_photographs(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the pictures that are no label maps and no pictures of annotations."""
        return [path for path in paths if self.role(path) in _PICTURES]

    def _place(self, path: Path) -> tuple[str, ...]:
        start = next((at for at in self._roles if path.is_relative_to(at)), self.root)
        return place(path.relative_to(start).parent.parts)

    def _given(self, name: str) -> Path:
        found = next((at for at in (self.root / name, Path(name).absolute()) if at.is_dir()), None)
        if found is None or not found.is_relative_to(self.root):
            raise UserError(f'{name} is no folder below {self.root}')
        return found

    def _best(
        self,
        found: Sequence[Path],
        rank: Callable,
        what: str,
        remedy: str = 'give the pictures names of their own, or leave one of them in the folder',
    ) -> Path | None:
        ranked = sorted(found, key=rank)
        if len(ranked) > 1 and rank(ranked[-1]) == rank(ranked[-2]):
            first, second = map(self.relative, ranked[-2:])
            raise UserError(f'{what} may be {first} or {second}; {remedy}')
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


def _is_other_image(path: Path) -> bool:
    kind = mimetypes.guess_type(path.name)[0] or ''
    return kind.startswith('image/') and path.suffix.lower() not in IMAGE_SUFFIXES

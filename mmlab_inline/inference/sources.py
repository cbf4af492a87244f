"""What is to be looked at: files, folders, patterns and videos, as a stream of images."""

import glob
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np

from ..datasets.checks import IMAGE_SUFFIXES
from ..utils import UserError
from .failures import recorded

VIDEO_SUFFIXES = {'.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm'}


@dataclass(frozen=True)
class Source:
    """A file with an image or a video in it.

    Attributes:
        path: The file.
        name: What its results are called, without suffix; no other source has it.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Frame:
    """One image, from a file of its own or from a video.

    Attributes:
        number: Counted from 1 over all sources; the image id in the results.
        name: What its results are called, without suffix.
        file_name: Path of the image, or ``VIDEO/NUMBER``.
        image: ``(H, W, 3)`` as the config's pipeline loads it: BGR.
        source: Where it is from.
    """

    number: int
    name: str
    file_name: str
    image: np.ndarray
    source: Source


def find_sources(inputs: Sequence[str], left_out: list[Path] | None = None) -> list[Source]:
    """Expand files, folders and patterns.

    A folder stands for the images and videos directly in it. Results are called as their file
    without suffix; where several files would share that, with suffix, and with the folder too where
    that is the same.

    Args:
        inputs: What to expand.
        left_out: Gains the other files of the folders, but hidden ones.

    Raises:
        UserError: There is nothing of the name, or no image in it.
    """
    found = [path for each in inputs for path in _expand(each, left_out)]
    paths = list(dict.fromkeys(found))
    names = [path.stem for path in paths]
    for finer in (
        lambda path: path.name,
        lambda path: f'{path.absolute().parent.name}_{path.name}',
    ):
        counts = Counter(names)
        names = [
            finer(path) if counts[name] > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    named: dict[str, Path] = {}
    for path, name in zip(paths, names, strict=True):
        free, number = name, 1
        while free in named:
            number += 1
            free = f'{name}_{number}'
        named[free] = path
    return [Source(path, name) for name, path in named.items()]


def count_frames(sources: Sequence[Source]) -> int:
    """Images in all sources, as the videos' headers tell it."""
    return sum(
        max(mmcv.VideoReader(str(source.path)).frame_cnt, 0) if source.is_video else 1
        for source in sources
    )


def read_frames(
    sources: Sequence[Source],
    read_image: Callable[[Path], np.ndarray],
    failures: dict[str, str],
) -> Iterator[Frame]:
    """Read everything in turn.

    Args:
        sources: What to read.
        read_image: Reads an image file.
        failures: Gains the files that cannot be read, and why.
    """
    number = 0
    for source in sources:
        if source.is_video:
            count = 0
            for count, image in enumerate(mmcv.VideoReader(str(source.path)), start=1):
                number += 1
                name = f'{source.name}/{count:06}'
                yield Frame(number, name, f'{source.path}/{count:06}', image, source)
            if not count:
                failures[str(source.path)] = 'cannot be read: no frame of it can be decoded'
            continue
        with recorded(failures, str(source.path), 'cannot be read'):
            image = read_image(source.path)
            number += 1
            yield Frame(number, source.name, str(source.path), image, source)


def _expand(text: str, left_out: list[Path] | None) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _with_pictures(path.iterdir())
        if not found:
            below = ' itself; name its subfolders' if _with_pictures(path.rglob('*')) else ''
            raise UserError(f'there is no image or video in the folder {text}{below}')
        if left_out is not None:
            others = (other for other in path.iterdir() if other.is_file() and other not in found)
            left_out += sorted(other for other in others if not other.name.startswith('.'))
        return found
    if glob.has_magic(text):
        found = [Path(name) for name in sorted(glob.glob(text, recursive=True))]
        found = [each for each in found if each.is_file()]
        if not found:
            raise UserError(f'no file matches {text}')
        return found
    raise UserError(f'input {text} does not exist')


def _with_pictures(paths: Iterator[Path]) -> list[Path]:
    known = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    return sorted(path for path in paths if path.suffix.lower() in known and path.is_file())

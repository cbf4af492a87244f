"""An image file as the configured loader sees it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...utils import one_line
from .finding import Finding, first_fatal, recorder
from .settings import transforms

# Of files that Pillow and OpenCV read alike; of an animation the first frame.
IMAGE_SUFFIXES = (
    *('.apng', '.avif', '.bmp', '.gif', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.mpo'),
    *('.pbm', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'),
)
# OpenCV's default limit; OPENCV_IO_MAX_IMAGE_PIXELS raises it.
_CV2_PIXELS = 2**30
# The decoded image, and what resizing and converting it makes beside it.
_COPIES = 3
_TINY = 16
_EXTREME = 10
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def _physical_memory() -> int:
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


@dataclass(frozen=True)
class ImageLoading:
    """What ``LoadImageFromFile`` is told, and what the model takes.

    Attributes:
        color_type: Flag of ``mmcv.imfrombytes``.
        backend: Decoder of ``mmcv.imfrombytes``.
        channels: Channels that the model takes.
        memory: Bytes that one image may need while it is loaded.
    """

    color_type: str = 'color'
    backend: str = 'cv2'
    channels: int = 3
    memory: int = field(default_factory=_physical_memory)

    @classmethod
    def from_settings(cls, pipeline: object, model: Mapping) -> 'ImageLoading':
        """What a pipeline and a model say, mm's defaults where they are silent."""
        load = next(transforms(pipeline, 'LoadImageFromFile'), {})
        mean = (model.get('data_preprocessor') or {}).get('mean') or (0, 0, 0)
        return cls(load.get('color_type', 'color'), load.get('imdecode_backend', 'cv2'), len(mean))

    @property
    def turns(self) -> bool:
        """Whether the EXIF orientation is applied."""
        return self.color_type in ('color', 'grayscale') and self.backend in ('cv2', 'pillow')


def check_image(
    path: str,
    loading: ImageLoading,
    annotated: tuple[int, int] | None = None,
    fast: bool = False,
) -> tuple[list[Finding], tuple[int, int] | None]:
    """Check one image file.

    Args:
        path: The file.
        loading: How training loads it.
        annotated: Height and width that the annotations give, in pixels.
        fast: Read the header only: torn pixels and too many or few channels go unnoticed.

    Returns:
        The findings, and height and width as loaded, or None where it does not load.
    """
    findings, add = recorder(path)
    problem = file_problem(path)
    if problem:
        add('fatal', *problem)
        return findings, None
    try:
        header = _read_header(path)
    except UnidentifiedImageError:
        header = None
    except Exception:  # a damaged header fails in any way
        add('fatal', 'image-unreadable', 'is damaged: its header does not read', _REPLACE)
        return findings, None
    if header is None and fast:
        add('fatal', 'image-unreadable', 'is no image that Pillow knows', _REPLACE)
        return findings, None
    if header:
        _check_header(header, loading, annotated, add)
    if first_fatal(findings) or (header and fast):
        return findings, None if first_fatal(findings) else header.loaded_size(loading)
    pixels = _decode(path, header, loading, add)
    if pixels is None:
        return findings, None
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels != loading.channels:
        add(
            'fatal',
            'image-channels',
            f'has {channels} channels as loaded with color_type={loading.color_type!r}, the model '
            f'takes {loading.channels}',
            "load with color_type='color', or fit data_preprocessor and backbone to the data",
        )
    if header and header.deep:
        add(
            'warning',
            'image-16-bit',
            f'has 16 bits a channel; loaded as {pixels.dtype}, its brightest value is '
            f'{pixels.max()}',
            'scale the values to 0..255 and save 8 bits a channel',
        )
    return findings, (height, width)


def file_problem(path: str, noun: str = 'image') -> tuple[str, str, str] | None:
    """Kind, problem and remedy of a file that is absent, empty or closed to us, else None."""
    try:
        with open(path, 'rb') as file:
            if file.read(1):
                return None
    except FileNotFoundError:
        remedy = 'put it there, or take it out of the annotations'
        return f'{noun}-absent', 'is listed but does not exist', remedy
    except OSError as error:
        return f'{noun}-unreadable', f'cannot be opened ({one_line(error)})', _REPLACE
    return f'{noun}-empty', 'is an empty file', _REPLACE


_REPLACE = 'copy it anew from its source, or take it out of the data'


@dataclass(frozen=True)
class _Header:
    mode: str
    size: tuple[int, int]  # width, height as stored
    orientation: int  # of EXIF, 1 to 8
    transparent: bool
    deep: bool  # 16 bits a channel

    def loaded_size(self, loading: ImageLoading) -> tuple[int, int]:
        """Height and width after loading."""
        turned = loading.turns and self.orientation in _SIDEWAYS
        return self.size if turned else self.size[::-1]


@contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open large images: they are the user's own, and memory is looked at apart."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_header(path: str) -> _Header:
    with any_size(), Image.open(path) as image:
        # For a PNG without EXIF before its pixels, getexif() would decode them all.
        tags = image.getexif() if image.format != 'PNG' or 'exif' in image.info else {}
        return _Header(
            image.mode,
            image.size,
            tags.get(_EXIF_ORIENTATION, 1),
            image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info,
            image.mode[0] in 'IF' or ';16' in str(image.tile),
        )


def _check_header(header: _Header, loading: ImageLoading, annotated, add) -> None:
    width, height = header.size
    pixels = width * height
    needed = pixels * loading.channels * _COPIES
    if loading.backend == 'cv2' and pixels > _CV2_PIXELS:
        add(
            'fatal',
            'image-too-large',
            f'is {width}x{height}: OpenCV refuses more than 2**30 pixels',
            'cut it into tiles, or set OPENCV_IO_MAX_IMAGE_PIXELS',
        )
    elif needed > loading.memory:
        add(
            'fatal',
            'image-too-large',
            f'is {width}x{height}: loading it takes about {needed / 2**30:.3g} GiB of the '
            f"machine's {loading.memory / 2**30:.3g} GiB",
            'cut it into tiles, or make it smaller',
        )
    if min(width, height) < _TINY:
        add(
            'warning',
            'image-tiny',
            f'is {width}x{height} pixels: a backbone of stride 32 sees less than one token',
            'take it out of the data if it is no photograph',
        )
    elif max(width, height) >= _EXTREME * min(width, height):
        add(
            'warning',
            'image-aspect',
            f'is {width}x{height}: resized with its aspect kept, the short side is a few pixels',
            'cut it into tiles',
        )
    grayscale = header.mode in ('1', 'L', 'LA', 'I', 'F') or header.mode.startswith('I;')
    if grayscale and loading.color_type.startswith('color'):
        add(
            'note',
            'image-grayscale',
            "is grayscale; color_type='color' makes three equal channels of it",
            'nothing to do',
        )
    if header.transparent:
        add(
            'warning',
            'image-alpha',
            'has transparent pixels; loading drops the transparency and shows what lies below it',
            'flatten it onto a background of your choice',
        )
    if header.mode in ('CMYK', 'YCCK'):
        add(
            'warning',
            'image-cmyk',
            f'is CMYK; {loading.backend} converts it without its colour profile',
            'save it as RGB',
        )
    _check_size(header, loading, annotated, add)


def _check_size(header: _Header, loading: ImageLoading, annotated, add) -> None:
    loaded = header.loaded_size(loading)
    turned = header.orientation != 1
    applied = 'applies' if loading.turns else 'ignores'
    if annotated and loaded != annotated:
        if turned and loaded == annotated[::-1]:
            flag = 'color_ignore_orientation' if loading.turns else 'color'
            add(
                'fatal',
                'image-exif-mismatch',
                f'is {loaded[1]}x{loaded[0]} as loaded, annotated as {annotated[1]}x'
                f'{annotated[0]}: EXIF orientation {header.orientation}, which the loader '
                f'{applied}',
                f"load with color_type='{flag}', or save the image turned and without EXIF",
            )
        else:
            add(
                'fatal',
                'image-size-mismatch',
                f'is {loaded[1]}x{loaded[0]}, annotated as {annotated[1]}x{annotated[0]}: boxes '
                'and masks are those of another size',
                'annotate this very file, or put the image back at its annotated size',
            )
    elif turned and loading.turns:
        add(
            'warning',
            'image-exif',
            f'has EXIF orientation {header.orientation}, which the loader applies; sizes do not '
            'tell whether the annotations were made on the turned image',
            'look at it with its boxes or label map drawn, or save it turned and without EXIF',
        )


def _decode(path: str, header: _Header | None, loading: ImageLoading, add) -> np.ndarray | None:
    import mmcv  # here, so that whoever reads no pixels does without

    content = Path(path).read_bytes()
    torn = _torn(content)
    try:
        with any_size():
            pixels = mmcv.imfrombytes(content, flag=loading.color_type, backend=loading.backend)
    except Exception:  # each decoder has its own
        pixels = None
    if torn:
        rest = 'refuses it' if pixels is None else 'fills the rest with grey without a word'
        add(
            'fatal',
            'image-truncated',
            f'ends before its last pixel ({torn}); {loading.backend} {rest}',
            _REPLACE,
        )
        return None
    if pixels is None and header is None:
        add('fatal', 'image-unreadable', 'is no image', _REPLACE)
    elif pixels is None:
        add(
            'fatal',
            'image-unreadable',
            f'is {header.mode} and does not load with {loading.backend}',
            'save it as 8-bit RGB, PNG or JPEG, or copy it anew if it is that already',
        )
    return pixels


def _torn(content: bytes) -> str | None:
    """What Pillow says of a file that ends too early, else None."""
    try:
        with any_size(), Image.open(BytesIO(content)) as image:
            image.draft('L', (1, 1))  # JPEG at an eighth of its size: the whole file is read
            image.load()
    except OSError as error:
        if 'truncated' in str(error):
            return str(error)
    except Exception:  # the loader, asked next, has the word
        pass
    return None

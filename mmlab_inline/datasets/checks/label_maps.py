"""Label maps of semantic segmentation, one by one and all together."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from .finding import Finding, recorder
from .images import any_size, file_problem

_IGNORED = 255
_REDRAW = 'save one channel of 8 bits, whose values are the class numbers'


@dataclass(frozen=True)
class LabelLoading:
    """What dataset and ``LoadAnnotations`` do with a label map.

    Attributes:
        num_classes: Number of classes.
        reduce_zero_label: Whether 0 is ignored and classes count from 1.
        label_map: New number of each old one, or None.
        backend: Decoder of ``mmcv.imfrombytes``.
        ignore_index: Ignored label beside 255.
    """

    num_classes: int
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] | None = None
    backend: str = 'pillow'
    ignore_index: int = _IGNORED

    def labels(self, value: int) -> int:
        """The class, or ignored label, that a value of the file becomes."""
        if self.reduce_zero_label:
            value = _IGNORED if value in (0, _IGNORED) else value - 1
        return (self.label_map or {}).get(value, value)

    def ignores(self, label: int) -> bool:
        """Whether a label, numbered as after loading, is ignored."""
        return label in (_IGNORED, self.ignore_index)


def check_label_map(
    path: str, image_size: tuple[int, int] | None, loading: LabelLoading, fast: bool = False
) -> tuple[list[Finding], Counter]:
    """Check one label map.

    Args:
        path: The file.
        image_size: Height and width of its image as loaded, or None to compare nothing.
        loading: How training loads it.
        fast: Read the header only: no value is looked at.

    Returns:
        The findings, and the number of pixels of each value in the file.
    """
    findings, add = recorder(path)
    problem = file_problem(path, 'label-map')
    if problem:
        add('fatal', *problem)
        return findings, Counter()
    try:
        if fast:
            with any_size(), Image.open(path) as header:
                size = header.size[::-1]
                channels = len(header.getbands())
        else:
            import mmcv  # here, so that whoever reads no pixels does without

            with any_size():
                pixels = mmcv.imfrombytes(
                    Path(path).read_bytes(), flag='unchanged', backend=loading.backend
                )
            if pixels is None:
                raise ValueError(f'{loading.backend} returns nothing')
            size = pixels.shape[:2]
            channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    except Exception as error:  # each decoder has its own
        unknown = isinstance(error, UnidentifiedImageError)
        add(
            'fatal',
            'label-map-unreadable',
            'is no image' if unknown else f'is damaged: {loading.backend} does not read it',
            'copy it anew from its source, or take its image out of the data',
        )
        return findings, Counter()
    if image_size and size != image_size:
        add(
            'fatal',
            'label-map-size',
            f'is {size[1]}x{size[0]}, its image {image_size[1]}x{image_size[0]} as loaded',
            'resize the label map to its image with nearest neighbour',
        )
    if min(size) == 1:
        add(
            'fatal',
            'label-map-line',
            f'is {size[1]}x{size[0]}: mmseg takes a side of one pixel away and fails',
            'take its image out of the data',
        )
    if channels != 1:
        hint = "; a palette PNG needs LoadAnnotations(imdecode_backend='pillow')"
        add(
            'fatal',
            'label-map-rgb',
            f'has {channels} channels: colours, not class numbers',
            _REDRAW + (hint if loading.backend != 'pillow' else ''),
        )
    if fast or channels != 1:
        return findings, Counter()
    values, counts = np.unique(pixels, return_counts=True)
    values = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    _check_values(values, loading, add)
    return findings, values


def _check_values(values: Counter, loading: LabelLoading, add) -> None:
    count = loading.num_classes
    if any(value != int(value) or not 0 <= value <= 255 for value in values):
        add(
            'fatal',
            'label-map-deep',
            f'has values from {min(values)} to {max(values)}: loading keeps 8 bits of them',
            _REDRAW,
        )
        return
    labels = {value: loading.labels(value) for value in values}
    beyond = [
        value for value, label in labels.items() if label >= count and not loading.ignores(label)
    ]
    if beyond:
        counting = f'0..{count - 1}'
        remedy = 'add the classes, or write 255 where there is none'
        if loading.reduce_zero_label:
            counting = f'1..{count}, and 0 for none'
        elif max(beyond) == count:
            remedy = 'set reduce_zero_label=True if classes count from 1, else ' + remedy
        add(
            'fatal',
            'label-map-beyond',
            f'has the values {_listed(beyond)}, the {count} classes have {counting}',
            remedy,
        )
    if all(map(loading.ignores, labels.values())):
        add(
            'warning',
            'label-map-ignored',
            f'has no labelled pixel: its values {_listed(values)} are ignored',
            'take its image out of the data',
        )


def check_label_values(values: Counter, folder: str, loading: LabelLoading) -> list[Finding]:
    """Check what the label maps of a split hold together.

    Args:
        values: Number of pixels of each value over all files.
        folder: Where they lie.
        loading: How training loads them.
    """
    findings, add = recorder(folder)
    present = {value for value, count in values.items() if count}
    if not present or max(present) > 255:
        return findings
    if present == {0, 255}:
        add(
            'fatal',
            'label-maps-0-255',
            'hold 0 and 255 only: 255 is ignored, so the second class does not exist',
            'write 1 in place of 255',
        )
    elif all(loading.ignores(loading.labels(value)) for value in present):
        add(
            'fatal',
            'label-maps-ignored',
            f'hold {_listed(present)} only, all of it ignored',
            'set reduce_zero_label=False if 0 is a class' if present == {0} else _REDRAW,
        )
    elif (
        loading.reduce_zero_label
        and 0 in present
        and max(present - {_IGNORED}) < (loading.num_classes)
    ):
        share = values[0] / values.total()
        add(
            'warning',
            'reduce-zero-label-doubtful',
            f'hold 0 ({share:.0%} of the pixels), which reduce_zero_label=True ignores, and never '
            f'{loading.num_classes}, the last class',
            'set reduce_zero_label=False if classes count from 0',
        )
    elif not loading.reduce_zero_label and 0 not in present and loading.num_classes in present:
        add(
            'fatal',
            'reduce-zero-label-missing',
            f'hold 1..{loading.num_classes} and never 0: every class is taken for the next one',
            'set reduce_zero_label=True',
        )
    return findings


def _listed(values) -> str:
    values = sorted(values)
    more = f' and {len(values) - 5} more' if len(values) > 5 else ''
    return ', '.join(f'{value:g}' for value in values[:5]) + more

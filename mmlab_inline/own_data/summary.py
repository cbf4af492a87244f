"""What is in the data, as tables."""

from collections import Counter

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..utils import counted
from .readers import SPLITS, OwnData, Picture, listed

_MOST_CLASSES = 40
_FEW = 10


def print_summary(data: OwnData, console: Console) -> None:
    """Print pictures, classes with their balance, and sizes of boxes or regions.

    Args:
        data: The data, with train and val split.
        console: Where to print.
    """
    splits = [split for split in SPLITS if split in data.splits]
    pictures = [picture for split in splits for picture in data.splits[split]]
    with_pixels = any(picture.pixels for picture in pictures)
    shapes = Counter(picture.size for picture in pictures).most_common()
    height, width = shapes[0][0]
    sizes = f'all {width}x{height}'
    if len(shapes) > 1:
        sizes = f'{len(shapes)} sizes, most often {width}x{height} ({shapes[0][1]})'
    counts = ', '.join(f'{len(data.splits[split])} {split}' for split in splits)
    console.print(f'{data.root}: {data.format}; pictures: {counts}; {sizes}', markup=False)
    _print_classes(data, splits, with_pixels, console)
    _print_sizes(pictures, with_pixels, console)
    empty = sum(not picture.amounts() for picture in pictures)
    if empty:
        console.print(f'note: pictures without an object: {empty}')
    for note in data.notes:
        console.print(f'note: {note}', markup=False)


def _print_classes(data: OwnData, splits: list[str], with_pixels: bool, console: Console) -> None:
    amounts = {
        split: sum((picture.amounts() for picture in data.splits[split]), Counter())
        for split in splits
    }
    shown = {
        split: Counter(label for picture in data.splits[split] for label in picture.amounts())
        for split in splits
    }
    what = 'pixels' if with_pixels else 'objects'
    table = Table(title=counted(len(data.classes), 'class'), title_justify='left')
    table.add_column('class')
    table.add_column(what, justify='right')
    table.add_column('share', justify='right')
    for split in splits:
        table.add_column(f'{split} pictures', justify='right')
    total = sum(amounts.values(), Counter())
    order = [label for label, _ in total.most_common()]
    order += [label for label in range(len(data.classes)) if label not in total]
    for label in order[:_MOST_CLASSES]:
        share = total[label] / max(total.total(), 1)
        rows = [str(shown[split][label]) for split in splits]
        table.add_row(escape(data.classes[label]), f'{total[label]:,}', f'{share:.1%}', *rows)
    console.print(table)
    if len(order) > _MOST_CLASSES:
        console.print(f'... and {counted(len(order) - _MOST_CLASSES, "rarer class")}')
    untrained = [data.classes[label] for label in order if not shown['train'][label]]
    unseen = [data.classes[label] for label in order if not shown['val'][label]]
    few = [data.classes[label] for label in order if 0 < shown['train'][label] < _FEW]
    for names, problem in (
        (untrained, 'classes without a picture to train on'),
        (few, f'classes with fewer than {_FEW} pictures to train on'),
        (unseen, 'classes without a picture in val, so without a metric'),
    ):
        if names:
            console.print(f'note: {problem}: {listed(names)}', markup=False)


def _print_sizes(pictures: list[Picture], with_pixels: bool, console: Console) -> None:
    if with_pixels:
        sizes = [size for picture in pictures for size in picture.region_sizes]
    else:
        boxes = [i['bbox'] for p in pictures for i in p.objects if not i['iscrowd']]
        sizes = [np.sqrt(max(width, 0) * max(height, 0)) for _, _, width, height in boxes]
    if not sizes:
        return
    ranks = (0, 5, 25, 50, 75, 95, 100)
    what = 'regions of the label maps' if with_pixels else 'boxes'
    table = Table(
        title=f'sizes of {len(sizes):,} {what}: square root of the area, pixels',
        title_justify='left',
    )
    for rank in ranks:
        table.add_column({0: 'least', 50: 'median', 100: 'most'}.get(rank, f'{rank} %'))
    table.add_row(*(f'{size:.0f}' for size in np.percentile(sizes, ranks)))
    console.print(table)

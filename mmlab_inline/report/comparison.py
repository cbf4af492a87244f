"""Tables of what tools/compare_attentions.py has measured, in Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..analysis.flops import DEFAULT_SHAPES


def comparison(folder: Path, label_maps: Path, num_classes: int) -> str:
    """The tables: of the segmentors, the detectors, speed, and what the attentions look at.

    Args:
        folder: Holds what the tools have left: ``segmentation/sweep.json``,
            ``detection/sweep.json``, ``attention/NAME/attention.json`` and ``benchmark/*.json``.
        label_maps: Folder of those that the segmentors were tested on.
        num_classes: Of the segmentors.
    """
    (timed,) = (folder / 'benchmark').glob('*.json')
    found = sorted(folder.glob('attention/*/attention.json'))
    constant = constant_miou(label_maps, num_classes)
    shapes = ['{} x {}'.format(*DEFAULT_SHAPES[scope]) for scope in ('mmseg', 'mmdet')]
    parts = [
        f'The commonest class everywhere has {constant:.1f}% mIoU. GFLOPs are for an image of '
        f'{shapes[0]} pixels in the first table and {shapes[1]} in the second.\n',
        *_sweep_table(_read(folder / 'segmentation/sweep.json'), {'mIoU': 'mIoU, %'}, 1),
        *_sweep_table(
            _read(folder / 'detection/sweep.json'),
            {'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'},
            100,
        ),
        *_speed_table(_read(timed)),
        *_look_table({path.parent.name: _read(path) for path in found}),
    ]
    return '\n'.join(parts)


def places(means: Sequence[float], spreads: Sequence[float]) -> list[tuple[int, int]]:
    """The first and the last place that each of several results may have.

    Two results are equal if they are no further apart than the root of the sum of their squared
    spreads.
    """
    found = []
    results = list(zip(means, spreads, strict=True))
    for mean, spread in results:
        better, worse = (
            sum(sign * (m - mean) > math.hypot(s, spread) for m, s in results) for sign in (1, -1)
        )
        found.append((1 + better, len(means) - worse))
    return found


def constant_miou(folder: Path, num_classes: int) -> float:
    """mIoU in percent of predicting the commonest class everywhere.

    Args:
        folder: Label maps as ADE20K has them, 0 for pixels that do not count.
        num_classes: Of the model. Those that do not occur have no IoU, in its metrics too.
    """
    counts = sum(
        np.bincount(np.asarray(Image.open(path)).ravel(), minlength=num_classes + 1)
        for path in folder.iterdir()
    )[1:]
    return 100 * counts.max() / counts.sum() / np.count_nonzero(counts)


def _sweep_table(rows: Sequence[Mapping], metrics: Mapping[str, str], scale: float) -> list[str]:
    """Accuracy and cost, the best first, and last what has none; places of those with a spread.

    Args:
        rows: Of a sweep's JSON.
        metrics: Their headings by their names; the first gives the order.
        scale: What the metrics are multiplied by.
    """
    first = next(iter(metrics))
    told = sorted((row for row in rows if row.get(first) is not None), key=lambda row: -row[first])
    placed = [row for row in told if row[f'± {first}'] is not None]
    found = places([row[first] for row in placed], [row[f'± {first}'] for row in placed])
    texts = {
        row['attention']: f'{low}' if low == high else f'{low} to {high}'
        for row, (low, high) in zip(placed, found, strict=True)
    }
    lines = []
    for row in [*told, *(row for row in rows if row not in told)]:
        values = [_mean_text(row.get(name), row.get(f'± {name}'), scale) for name in metrics]
        cost = [f'{row["parameters, M"]:.2f}', f'{row["FLOPs, G"]:.3g}']
        place = texts.get(row['attention'], '-')
        lines.append([f'`{row["attention"]}`', *values, place, f'{row["seeds"]}', *cost])
    headings = [*metrics.values(), 'place', 'seeds', 'parameters, M', 'GFLOPs']
    return _table(['attention', *headings], lines)


def _mean_text(mean: float | None, spread: float | None, scale: float) -> str:
    if mean is None:
        return '-'
    return f'{scale * mean:.1f}' + ('' if spread is None else f' ± {scale * spread:.1f}')


def _speed_table(report: Mapping) -> list[str]:
    """Times, in brackets over inline's, and memory; a group of columns a size."""
    cells = {(*row['size'], row['pass'], row['form']): row for row in report['rows']}
    sizes = list(dict.fromkeys(tuple(row['size']) for row in report['rows']))
    phases = list(dict.fromkeys(row['pass'] for row in report['rows']))
    headings = ['attention']
    for height, width in sizes:
        headings += [f'{height} x {width}, {phase}, ms' for phase in phases]
        headings.append(f'{height} x {width}, MiB kept')
    lines = []
    for form in dict.fromkeys(row['form'] for row in report['rows']):
        line = ['`inline`' if form == 'auto' else f'`{form}`']
        for size in sizes:
            for phase in phases:
                row = cells[*size, phase, form]
                time, ratio = row['median'], row['over_auto']
                beside = '' if form == 'auto' or ratio is None else f' ({ratio:.2f})'
                line.append('failed' if time is None else f'{1e3 * time:.0f}{beside}')
            kept = row['kept_bytes']  # of the last phase
            line.append('-' if kept is None else f'{kept / 2**20:.0f}')
        lines.append(line)
    return _table(headings, lines)


def _look_table(looks: Mapping[str, Mapping]) -> list[str]:
    """What the attentions do, in percent, a number a stage."""
    headings = ['confusion', 'locality', 'locality_with_local', 'masking']
    lines = []
    for name, look in looks.items():
        stages = look['stages']
        line = [f'`{name}`']
        for heading in headings:
            values = [stage[heading] for stage in stages]
            shown = ('-' if value is None else f'{100 * value:.0f}' for value in values)
            line.append('' if values.count(None) == len(values) else ' / '.join(shown))
        if any(line[1:]):
            lines.append(line)
    names = [f'{heading.replace("_", " ")}, %' for heading in headings]
    return _table(['attention', *names], lines)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ['---', *['---:'] * (len(headings) - 1)]
    return [*(f'| {" | ".join(cells)} |' for cells in (headings, rule, *lines)), '']


def _read(path: Path) -> object:
    return json.loads(path.read_text())

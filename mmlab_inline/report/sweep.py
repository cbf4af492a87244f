"""What a sweep has found: a table of its points, and a page with curves and cost."""

import csv
import io
import json
import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ..analysis.sweep import Point, Trial
from ..utils import counted, write_atomically
from .curves import draw_several, headlines, label_of, legend_height, run_style
from .figures import to_svg
from .page import Page, figure, paragraph, table
from .record import Record, metrics_of, read_record
from .run_report import RunReport, read_report, unit_of

_NOTE = (
    'Means over the seeds counted, and ±, their standard deviation (n - 1), which is rough for a '
    'few seeds: points that are no further apart than it are equal. FLOPs are multiply-accumulates '
    'at the image size of published tables. s/step is the median of what training logged, on a '
    'machine as busy as it was; memory is the most that PyTorch took of a GPU.'
)


@dataclass(frozen=True)
class Row:
    """A point of a sweep with its runs.

    Attributes:
        point: The settings.
        metrics: One dict a finished run.
        records: What the finished runs have logged.
        reports: Of those of them that have one.
        failed: Why runs have failed, by seed.
    """

    point: Point
    metrics: list[dict[str, float]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    reports: list[RunReport] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)

    def values(self, metric: str) -> list[float]:
        """A metric of the finished runs."""
        return [found[metric] for found in self.metrics if metric in found]

    def logged(self, name: str) -> list[float]:
        """All that the finished runs have logged of a quantity while they trained."""
        entries = (entry for record in self.records for entry in record.train)
        return [entry[name] for entry in entries if name in entry]

    def seconds(self) -> float | None:
        """Of a training step."""
        times = self.logged('time')
        return statistics.median(times) if times else None


def collect(trials: Iterable[Trial], failed: Mapping[Path, str]) -> list[Row]:
    """A row a point, in the order of the points.

    Args:
        trials: All runs of the sweep.
        failed: Why runs have failed, by their folders.
    """
    rows: dict[str, Row] = {}
    for trial in trials:
        row = rows.setdefault(trial.point.label, Row(trial.point))
        metrics = trial.result()
        if metrics is not None:
            row.metrics.append(metrics_of(metrics))
            row.records.append(read_record(trial.folder))
            row.reports.extend(filter(None, [read_report(trial.folder)]))
        elif trial.folder in failed:
            row.failed[trial.seed] = failed[trial.folder]
    return list(rows.values())


def sweep_table(rows: Sequence[Row]) -> tuple[list[str], list[list[object]]]:
    """Headings and rows: settings, main metrics with their spread, seeds, cost, failures.

    Seeds are those that have the foremost metric: COCO's has none where nothing is detected.
    """
    metrics = _metrics(rows)
    found = [*(name for metric in metrics for name in (metric, f'± {metric}')), 'seeds']
    found += ['parameters, M', 'FLOPs, G', 's/step', 'memory, MiB', 'failed']
    keys = [_heading(key, rows[0].point, {*found, 'runs'}) for key in rows[0].point.values]
    return [*keys, *found], [
        [
            *row.point.values.values(),
            *(number for metric in metrics for number in mean_and_spread(row.values(metric))),
            len(row.values(metrics[0])) if metrics else 0,
            row.point.params / 1e6,
            None if row.point.flops is None else row.point.flops / 1e9,
            row.seconds(),
            max(row.logged('memory'), default=None),
            '; '.join(_failures(row, metrics)),
        ]
        for row in rows
    ]


def _heading(key: str, point: Point, others: Collection[str]) -> str:
    """The key of a varied setting as the point has it, or the whole where another column has it."""
    if key not in others:
        return key
    # What is varied comes last.
    return next((full for full in reversed(point.options) if full.endswith(f'.{key}')), key)


def _failures(row: Row, metrics: Sequence[str]) -> Iterator[str]:
    for seed, reason in row.failed.items():
        yield f'seed {seed}: {reason}'
    main = metrics[0] if metrics else 'metrics'
    if without := len(row.metrics) - len(row.values(main)):
        yield f'{counted(without, "finished run")} without {main}'


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation, None where there are too few values."""
    mean = statistics.fmean(values) if values else None
    return mean, statistics.stdev(values) if len(values) > 1 else None


def write_sweep(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """Write ``sweep.html``, ``sweep.csv`` and ``sweep.json``.

    Raises:
        UserError: They cannot be written.
    """
    headings, cells = sweep_table(rows)
    file = io.StringIO()
    csv.writer(file).writerows([headings, *cells])
    write_atomically(folder / 'sweep.csv', file.getvalue().encode())
    found = [
        {**dict(zip(headings, line, strict=True)), 'runs': row.metrics}
        for row, line in zip(rows, cells, strict=True)
    ]
    write_atomically(folder / 'sweep.json', json.dumps(found, indent=1).encode())
    write_atomically(folder / 'sweep.html', _page(name, rows).html().encode())


def _page(name: str, rows: Sequence[Row]) -> Page:
    runs = sum(len(row.metrics) for row in rows)
    page = Page(f'Sweep of {name}', [f'{counted(len(rows), "point")}, {counted(runs, "run")}'])
    unit = unit_of(report for row in rows for report in row.reports)
    page.add('Results', table(*sweep_table(rows)), unit, paragraph(_NOTE, faint=True))
    if metrics := _metrics(rows):
        svg = to_svg(_draw_cost(rows, metrics[0]))
        note = 'Above and to the left is better; bars are the spread over the seeds.'
        page.add('Accuracy against cost', figure(svg, 'accuracy over cost'), paragraph(note, True))
    means = {row.point.label: mean_record(row.records) for row in rows if row.records}
    if any(record.train for record in means.values()):
        svg = to_svg(draw_several(means))
        note = 'Means over the seeds.'
        page.add('Training', figure(svg, 'losses and metrics'), paragraph(note, faint=True))
    return page


def mean_record(records: Sequence[Record]) -> Record:
    """The mean of what several runs have logged, at the steps that all of them have."""
    return Record(
        _mean_entries([record.train for record in records]),
        _mean_entries([record.evaluations for record in records]),
    )


def _mean_entries(several: Sequence[list[dict[str, float]]]) -> list[dict[str, float]]:
    first, *others = ({entry['step']: entry for entry in entries} for entries in several)
    out = []
    for step, entry in first.items():
        if all(step in other for other in others):
            same = [entry, *(other[step] for other in others)]
            names = [name for name in entry if all(name in some for some in same)]
            out.append({name: statistics.fmean(some[name] for some in same) for name in names})
    return out


def _draw_cost(rows: Sequence[Row], metric: str) -> Figure:
    """A metric over what it costs, a panel a cost."""
    height = max(4.4, legend_height(len(rows)))
    drawing = Figure(figsize=(15, height), layout='constrained')
    costs = {
        'FLOPs, G': lambda row: (row.point.flops or math.nan) / 1e9,
        'seconds a training step': lambda row: row.seconds() or math.nan,
        'parameters, M': lambda row: row.point.params / 1e6,
    }
    axes = drawing.subplots(1, len(costs), sharey=True)
    for axis, (label, cost) in zip(axes, costs.items(), strict=True):
        # Only these have curves, and colours are to be the same there.
        drawn = [row for row in rows if row.metrics]
        for index, row in enumerate(drawn):
            mean, spread = mean_and_spread(row.values(metric))
            if mean is not None:
                style = run_style(index, lines=False, points=True)
                bars = dict(capsize=3, label=label_of(row.point.label))
                axis.errorbar(cost(row), mean, spread or 0, **bars, **style)
        known = [value for value in map(cost, drawn) if value > 0]
        if known and max(known) > 10 * min(known):  # else one costly run squeezes the others
            axis.set_xscale('log')
            axis.xaxis.set_major_formatter(LogFormatter())  # plain numbers, no math
            axis.xaxis.set_minor_formatter(LogFormatter())
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel=metric)
    axes[-1].legend(fontsize='small', loc='upper left', bbox_to_anchor=(1.01, 1), framealpha=0)
    return drawing


def _metrics(rows: Sequence[Row]) -> list[str]:
    """The main metrics of the runs, those of curves."""
    names = dict.fromkeys(name for row in rows for found in row.metrics for name in found)
    return headlines(list(names))

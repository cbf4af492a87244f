"""What a benchmark leaves: a table, a JSON file and a picture."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from ...utils import counted
from .subjects import Subject
from .timing import Row

LEGEND = (
    'spread: interquartile range over the median; faster: than the released form; floor, auto: '
    'time over theirs; kept: by autograd for the backward pass; moved: read and written by '
    'operations; peak: GPU memory beside weights and inputs; differs: largest difference from '
    "auto's outputs, relative."
)


def rate(subject: Subject, row: Row) -> float:
    """Images, frames or iterations per second, as ``Subject.passes`` says."""
    iterations = subject.passes[row.phase] == 'iterations/s'
    return (1 if iterations else subject.images(row.phase)) / row.median


def relative(rows: Sequence[Row], row: Row, form: str) -> float | None:
    """Median time of ``row`` over that of another form at the same size and pass, if both exist."""
    for other in rows:
        if (other.size, other.phase, other.form) == (row.size, row.phase, form):
            quotient = row.median / other.median
            return None if math.isnan(quotient) else quotient
    return None


def growth(rows: Sequence[Row]) -> list[dict[str, object]]:
    """How time grows from the smallest to the largest size, for every pass and form."""
    first, last = (pick((row.size for row in rows), key=math.prod) for pick in (min, max))
    cells = {(row.phase, row.form, row.size): row.median for row in rows}
    out = []
    for phase, form in dict.fromkeys((row.phase, row.form) for row in rows):
        times = cells[phase, form, last] / cells[phase, form, first]
        if first != last and not math.isnan(times):
            pixels = math.prod(last) / math.prod(first)
            out.append(
                {
                    'pass': phase,
                    'form': form,
                    'from': first,
                    'to': last,
                    'pixels': pixels,
                    'time': times,
                }
            )
    return out


def as_json(
    subject: Subject, rows: Sequence[Row], machine: Mapping[str, object], command: str
) -> dict[str, object]:
    """Everything that was measured, with all that the table derives from it.

    Times are seconds of one call, memory is bytes; what does not exist is null.
    """
    return {
        'subject': subject.title,
        'batch': subject.batch,
        'command': command,
        'machine': dict(machine),
        'rows': [
            {
                'size': row.size,
                'pass': row.phase,
                'form': row.form,
                'median': row.median if row.seconds else None,
                'quartiles': row.quartiles if row.seconds else None,
                'rate': rate(subject, row) if row.seconds else None,
                'unit': subject.passes[row.phase],
                'times_released': _inverse(relative(rows, row, 'released')),
                'over_floor': relative(rows, row, 'floor'),
                'over_auto': relative(rows, row, 'auto'),
                'kept_bytes': row.kept_bytes,
                'moved_bytes': row.moved_bytes,
                'peak_bytes': row.peak_bytes,
                'difference': row.difference,
                'seconds': row.seconds,
                'error': row.error,
            }
            for row in rows
        ],
        'growth': growth(rows),
    }


def tables(subject: Subject, rows: Sequence[Row]) -> Iterator[Table]:
    """A table for every size and pass, and one of the growth when there are several sizes."""
    for (size, phase), group in itertools.groupby(rows, lambda row: (row.size, row.phase)):
        headings = ['ms', 'spread', subject.passes[phase], 'faster', 'floor', 'auto']
        headings += ['kept MiB', 'moved MiB', 'peak MiB', 'differs']
        lines = {}
        for row in group:
            low, high = row.quartiles
            lines[row.form] = [
                f'{row.median * 1e3:.4g}',
                f'{(high - low) / row.median:.0%}',
                f'{rate(subject, row):.4g}',
                _cell(_inverse(relative(rows, row, 'released')), '.2f'),
                _cell(relative(rows, row, 'floor'), '.2f'),
                _cell(relative(rows, row, 'auto'), '.2f'),
                _mebibytes(row.kept_bytes),
                _mebibytes(row.moved_bytes),
                _mebibytes(row.peak_bytes),
                _cell(row.difference, '.0e'),
            ]
            if row.error:
                lines[row.form] = ['failed'] + ['-'] * (len(headings) - 1)
        shown = [i for i in range(len(headings)) if any(line[i] != '-' for line in lines.values())]
        out = _table(f'{size[0]}x{size[1]} {phase}', [headings[i] for i in shown])
        for form, line in lines.items():
            out.add_row(form, *(line[i] for i in shown))
        yield out
    grown = growth(rows)
    if grown:
        sizes = ' to '.join(
            f'{height}x{width}' for height, width in (grown[0]['from'], grown[0]['to'])
        )
        out = _table(f'{sizes}, {grown[0]["pixels"]:.4g} times the pixels', ['times the time'])
        for line in grown:
            out.add_row(f'{line["pass"]} {line["form"]}', f'{line["time"]:.1f}')
        yield out


def draw(subject: Subject, rows: Sequence[Row], machine: Mapping[str, object], path: Path) -> None:
    """Draw speed, and time per pixel, against the number of pixels: a row of panels per pass."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    phases = list(subject.passes)
    figure, axes = plt.subplots(
        len(phases), 2, figsize=(11, 3.8 * len(phases)), layout='constrained', squeeze=False
    )
    for (speed, per_pixel), phase in zip(axes, phases, strict=True):
        for form in dict.fromkeys(row.form for row in rows):
            points = sorted(
                (row for row in rows if (row.form, row.phase) == (form, phase) and row.seconds),
                key=lambda row: math.prod(row.size),
            )
            pixels = [math.prod(row.size) / 1e6 for row in points]
            speed.plot(pixels, [rate(subject, row) for row in points], 'o-', ms=4, label=form)
            seconds = [row.median / subject.images(phase) for row in points]
            nanoseconds = [1e3 * time / count for time, count in zip(seconds, pixels, strict=True)]
            per_pixel.plot(pixels, nanoseconds, 'o-', ms=4, label=form)
        speed.set(title=f'{phase}: speed', ylabel=subject.passes[phase])
        per_pixel.set(title=f'{phase}: level where linear', ylabel='nanoseconds per pixel')
        for axis in (speed, per_pixel):
            axis.set_xlabel('millions of pixels of an image, or tokens of a map')
            axis.set(xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend(fontsize='small')
    figure.suptitle(f'{subject.title}, batch {subject.batch}\n{describe(machine)}', fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def describe(machine: Mapping[str, object]) -> str:
    """The machine in one line."""
    processor = machine['gpu'] or f'{machine["cpu"]}, {counted(machine["threads"], "thread")}'
    return f'{processor}, {machine["precision"]}, torch {machine["torch"]}, {machine["date"]}'


def _inverse(value: float | None) -> float | None:
    return None if value is None else 1 / value


def _cell(value: float | None, style: str) -> str:
    return '-' if value is None else format(value, style)


def _mebibytes(count: int | None) -> str:
    return _cell(count and count / 2**20, '.1f')


def _table(title: str, headings: Sequence[str]) -> Table:
    out = Table(title=title, title_justify='left', box=None, pad_edge=False)
    out.add_column('form', no_wrap=True)
    for heading in headings:
        out.add_column(heading, justify='right', no_wrap=True)
    return out

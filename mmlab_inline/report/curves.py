"""Curves of one run or several: losses, learning rate and metrics over the iterations."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .record import Record

# Out of what COCO's and the segmentation metrics print, what a table of results has.
_HEADLINES = ('bbox_mAP', 'segm_mAP', 'mIoU', 'mAcc', 'aAcc', 'mDice', 'mFscore')
# How runs are drawn that have the same colour.
_LINES = ('-', '--', ':', '-.')
_POINTS = 'os^D'


def headlines(metrics: list[str]) -> list[str]:
    """The main ones among names of metrics, foremost first, or the first few if none is known."""
    known = [name for main in _HEADLINES for name in metrics if name.rpartition('/')[2] == main]
    return known or metrics[:6]


def foremost(metrics: list[str]) -> list[str]:
    """Names of metrics, the main ones first."""
    return list(dict.fromkeys([*headlines(metrics), *metrics]))


def draw_curves(record: Record) -> Figure:
    """Losses, learning rate and metrics of one run, side by side."""
    metrics = headlines(record.metrics())
    figure = Figure(figsize=(15 if metrics else 10, 4), layout='constrained')
    losses, rate, *rest = figure.subplots(1, 3 if metrics else 2)
    plot_losses(losses, record)
    rate.plot(*record.series('lr'))
    _finish(rate, 'learning rate')
    for axis in rest:
        for name in metrics:
            axis.plot(*record.series(name), 'o-', ms=4, label=name)
        _finish(axis, 'metrics')
    return figure


def plot_losses(axis: Axes, record: Record, title: str = 'training losses') -> None:
    """The total loss, and its terms where there is more than one."""
    names = record.losses()
    for name in names if len(names) > 2 else names[:1]:  # one term is the total
        is_total = name == 'loss'
        axis.plot(*record.series(name), label=name, lw=1.8 if is_total else 1, zorder=2 + is_total)
    _finish(axis, title)


def draw_several(records: Mapping[str, Record]) -> Figure:
    """Total loss, learning rate and each main metric of several runs, laid over each other."""
    metrics = list(dict.fromkeys(m for r in records.values() for m in headlines(r.metrics())))
    names = ['loss', 'lr', *metrics]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    height = max(3.6 * rows, legend_height(len(records)))
    figure = Figure(figsize=(5 * columns, height), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        for index, (run, record) in enumerate(records.items()):
            steps, values = record.series(name)
            if steps:
                style = run_style(index, points=name in metrics)
                axis.plot(steps, values, ms=4, label=label_of(run), **style)
        _finish(axis, {'loss': 'training loss', 'lr': 'learning rate'}.get(name, name), False)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    # One for all: in the panels those of many runs hide the curves.
    shown = {
        label: line
        for axis in axes
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(shown.values(), shown, loc='outside right upper', fontsize='small')
    return figure


def legend_height(count: int) -> float:
    """Inches that a legend of so many runs takes in small type."""
    return 0.3 + 0.19 * count


def label_of(run: str) -> str:
    """The name of a run in a legend, which leaves out what begins with an underscore."""
    return f' {run}' if run.startswith('_') else run


def run_style(index: int, lines: bool = True, points: bool = False) -> dict[str, str]:
    """How a run is drawn: of one colour and shape in all figures that have several.

    The ten colours come again with other lines and points.
    """
    turn = index // 10 % len(_LINES)
    return dict(
        color=f'C{index % 10}',
        linestyle=_LINES[turn] if lines else 'none',
        marker=_POINTS[turn] if points else 'none',
    )


def _finish(axis: Axes, title: str, with_legend: bool = True) -> None:
    axis.set(title=title, xlabel='iteration', xlim=(0, None))
    axis.set_ylim(min(0, axis.dataLim.y0), None)
    axis.locator_params(axis='x', integer=True)
    axis.grid(alpha=0.3)
    if with_legend and axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize='small')

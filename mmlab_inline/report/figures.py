"""Figures of a page, in colours that follow it from light to dark."""

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

from .evaluation import RECALLS, Evaluation

# Black and white in a figure are the colours of the page's text and ground.
_INK, _GROUND = '#000000', '#ffffff'
# More classes than these get no name, no number or no line of their own in a figure.
_MAX_NAMED = 40
_MAX_NUMBERED = 12
_MAX_LINES = 10


def to_svg(figure: Figure) -> str:
    """An SVG element for a page, on no ground, with its text as text."""
    with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': None}):
        svg = _saved(figure, format='svg', transparent=True, metadata={'Date': None}).decode()
    return svg[svg.index('<svg') :].replace(_INK, 'currentColor').replace(_GROUND, 'var(--ground)')


def to_png(figure: Figure) -> bytes:
    """A PNG file."""
    return _saved(figure, format='png', dpi=120)


def _saved(figure: Figure, **settings: object) -> bytes:
    """A file of a figure whose texts are what they say: names may have ``$``, which is no math."""
    file = io.BytesIO()
    with matplotlib.rc_context({'text.parse_math': False}):  # of ticks that are yet to come
        for text in figure.findobj(Text):
            text.set_parse_math(False)
        figure.savefig(file, **settings)
    return file.getvalue()


def has_names(evaluation: Evaluation) -> bool:
    """Whether the classes have names in the confusion matrix, or else their numbers."""
    return len(evaluation.confusion_names) <= _MAX_NAMED


def draw_confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix as shares of its rows."""
    counts, names = evaluation.confusion, evaluation.confusion_names
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    is_named = has_names(evaluation)
    side = min(10, max(4.5, 1.5 + 0.45 * len(names))) if is_named else 8
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axis = figure.subplots()
    image = axis.imshow(shares, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
    axis.set(xlabel='predicted', ylabel='truth')
    if is_named:
        axis.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
        axis.set_yticks(range(len(names)), names)
    else:
        axis.set(xlabel='predicted, number of the class', ylabel='truth, number of the class')
    if len(names) <= _MAX_NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if counts[row, column]:
                # Not quite white or black: on cells they stay what they are on a dark page.
                ink = '#fefefe' if share > 0.5 else '#010101'
                text = f'{100 * share:.0f}' if evaluation.percent else f'{share:.2f}'
                axis.text(column, row, text, color=ink, ha='center', va='center')
    unit = PercentFormatter(1, symbol=' %') if evaluation.percent else None
    figure.colorbar(image, ax=axis, shrink=0.8, label='share of the row', format=unit)
    return figure


def draw_precision_recall(evaluation: Evaluation) -> Figure:
    """Precision over recall: of every class, and the mean of them."""
    figure = Figure(figsize=(7 * len(evaluation.curves), 4.6), layout='constrained')
    axes = figure.subplots(1, len(evaluation.curves), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, evaluation.curves.items(), strict=True):
        areas = curves.mean(1)
        order = [index for index in np.argsort(-areas) if not np.isnan(areas[index])]
        if len(order) > _MAX_LINES:  # the best and the worst have names
            half = _MAX_LINES // 2
            named = [*order[:half], *order[-half:]]
            for index in set(order) - set(named):
                axis.plot(RECALLS, curves[index], color='#8888887f', lw=0.5, zorder=1)
            order = named
        for index in order:
            label = f'{evaluation.classes[index]} {evaluation.shown(areas[index])}'
            axis.plot(RECALLS, curves[index], lw=1.2, label=label)
        mean = mean_curve(curves)
        axis.plot(
            RECALLS, mean, color=_INK, lw=2.2, label=f'mean {evaluation.shown(np.mean(mean))}'
        )
        finish_precision_recall(axis, title, evaluation.percent)
    return figure


def mean_curve(curves: np.ndarray) -> np.ndarray:
    """Mean precision ``(101,)`` over the classes that occur; zero where none does."""
    occurring = curves[~np.isnan(curves).any(1)]
    return occurring.mean(0) if len(occurring) else np.zeros(curves.shape[1])


def finish_precision_recall(axis: Axes, title: str, percent: bool) -> None:
    """What all precision-recall figures have."""
    axis.set(title=title, xlabel='recall', ylabel='precision', xlim=(0, 1), ylim=(0, 1.02))
    if percent:
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(PercentFormatter(1, symbol=' %'))
    axis.grid(alpha=0.3)
    beside = dict(loc='upper left', bbox_to_anchor=(1.01, 1), framealpha=0)
    axis.legend(fontsize='small', title='area below', **beside)

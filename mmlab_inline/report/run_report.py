"""What is known of an evaluated run, as a page to read and as JSON to compare."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ..utils import UserError, counted, write_atomically
from .curves import draw_curves, foremost
from .evaluation import Evaluation, Picture, unit_note
from .figures import draw_confusion, draw_precision_recall, has_names, mean_curve, to_svg
from .page import Page, figure, folded, paragraph, pictures, table
from .record import metrics_of, read_record

# Most frequent confusions that are listed.
_MAX_CONFUSIONS = 30


@dataclass(frozen=True)
class RunReport:
    """A run and its evaluation.

    Attributes:
        name: Of the run.
        about: Short facts: what was evaluated, when.
        metrics: As the metric names them.
        cost: By :func:`~.cost.model_cost` and :meth:`~.cost.Stopwatch.speed`.
        settings: Of the config, as text, by dotted keys.
        classes: Their names.
        per_class: Columns of the table of classes.
        headline: The column that classes are judged by.
        curves: Mean precision at :data:`~.evaluation.RECALLS`, by title.
        percent: The unit of all these, as :class:`~.evaluation.Evaluation` has it; None where there
            are only metrics.
    """

    name: str
    about: list[str]
    metrics: dict[str, float]
    cost: dict[str, object]
    settings: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    headline: str = ''
    curves: dict[str, list[float]] = field(default_factory=dict)
    percent: bool | None = None

    @classmethod
    def of(
        cls,
        name: str,
        about: list[str],
        metrics: Mapping[str, float],
        cost: dict[str, object],
        cfg: Config,
        found: Evaluation | None,
    ) -> 'RunReport':
        """Of what was measured; ``found`` is None where there are only metrics."""
        metrics = metrics_of(metrics)
        settings = dict(_leaves(cfg.to_dict()))
        if found is None:
            return cls(name, about, metrics, cost, settings)
        return cls(
            name,
            about,
            metrics,
            cost,
            settings,
            list(found.classes),
            {heading: _plain(column) for heading, column in found.per_class.items()},
            found.headline,
            {
                title: np.round(mean_curve(curves), 4).tolist()
                for title, curves in found.curves.items()
            },
            found.percent,
        )

    @classmethod
    def read(cls, path: Path) -> 'RunReport':
        """Read what :meth:`write` has written.

        Raises:
            UserError: The file is none of its files.
        """
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f'{path} is no report of a run: {error}; evaluate it again') from None

    def write(self, work_dir: Path, found: Evaluation | None, config: str) -> None:
        """Write ``report.html``, with the text of the config, and ``report.json``.

        Raises:
            UserError: They cannot be written.
        """
        write_atomically(work_dir / 'report.json', json.dumps(vars(self)).encode())
        page = self._page(work_dir, found, config).html()
        write_atomically(work_dir / 'report.html', page.encode())

    def _page(self, work_dir: Path, found: Evaluation | None, config: str) -> Page:
        page = Page(self.name, self.about)
        remarks = [paragraph(remark) for remark in found.remarks] if found else []
        rows = [(name, self.metrics[name]) for name in foremost(list(self.metrics))]
        metrics = table(['metric', 'value'], rows) if rows else ''
        unit = [paragraph(unit_note(found.percent), faint=True)] if found and metrics else []
        page.add(
            'Metrics', *remarks, metrics or paragraph('The evaluation gave no metrics.'), *unit
        )
        page.add('Cost', table(['what', 'value', 'unit'], cost_rows(self.cost)), cost_note())
        if found:
            _add_findings(page, self, found)
        record = read_record(work_dir)
        if record.train:
            svg = to_svg(draw_curves(record))
            page.add('Training', figure(svg, 'losses, learning rate and metrics over iterations'))
        page.add('Config', folded('the whole config', config))
        return page


def read_report(work_dir: Path) -> RunReport | None:
    """The report of the run in a work folder, if there is one.

    Raises:
        UserError: The file is none of its files.
    """
    path = work_dir / 'report.json'
    return RunReport.read(path) if path.is_file() else None


def unit_of(reports: Iterable[RunReport]) -> str:
    """A paragraph on the unit of a table of several runs; nothing where they have not one."""
    units = {report.percent for report in reports} - {None}
    return paragraph(unit_note(*units), faint=True) if len(units) == 1 else ''


def size_text(shape: Sequence[int]) -> str:
    """Height and width for a reader."""
    height, width = shape
    return f'{height} x {width}'


def cost_rows(cost: Mapping[str, object]) -> list[tuple[str, object, str]]:
    """The table of costs: what, value, unit."""
    rows: list[tuple[str, object, str]] = []
    if 'params' in cost:
        rows += [
            ('parameters', cost['params'] / 1e6, 'M'),
            (f'FLOPs at {size_text(cost["shape"])}', cost['flops'] / 1e9, 'G multiply-accumulates'),
        ]
    else:
        rows.append((f'parameters and FLOPs are not counted: {cost.get("reason")}', None, ''))
    if 'images_per_second' in cost:
        processes = counted(cost['processes'], 'process')
        where = f'batch {cost["batch"]}, {processes}, {cost["machine"]}'
        rows += [
            ('speed', cost['images_per_second'], f'images/s, each at its own size; {where}'),
            ('with loading', cost['images_per_second_with_loading'], 'images/s'),
        ]
    if 'peak_memory_mib' in cost:
        rows.append(('GPU memory, peak', cost['peak_memory_mib'], 'MiB'))
    return rows


def cost_note() -> str:
    """A paragraph on how costs are counted."""
    return paragraph(
        'FLOPs are those of the published tables’ image size (tools/analysis/get_flops.py says '
        'how they are counted). The speed is that of the evaluation: model, post-processing and '
        'metric, without the first batch, on images as the test pipeline resizes them: FLOPs and '
        'speed are of the same size only where that is the published one.',
        faint=True,
    )


def _add_findings(page: Page, report: RunReport, found: Evaluation) -> None:
    columns = [report.classes, *report.per_class.values()]
    page.add(
        f'{found.headline} of the classes',
        table(['class', *report.per_class], zip(*columns, strict=True), bars=[found.headline]),
        paragraph(unit_note(found.percent), faint=True),
    )
    confusions = _confusions(found)
    unit = ', %' if found.percent else ''
    curves = figure(to_svg(draw_precision_recall(found)), 'curves') if found.curves else ''
    page.add('Precision and recall', curves, paragraph(found.curves_note, faint=True))
    page.add(
        'Confusion',
        figure(to_svg(draw_confusion(found)), 'confusion matrix'),
        paragraph(found.confusion_note, faint=True),
        table(['truth', 'predicted', 'count', f'share of the truth{unit}'], confusions)
        if confusions
        else paragraph('Nothing was confused.'),
    )
    for kind, some in (('Worst', found.worst), ('Best', found.best)):
        page.add(
            f'{kind} images',
            pictures(
                (_caption(picture, found), picture.truth, picture.prediction) for picture in some
            )
            or paragraph('None beside the others.'),
            paragraph(
                f'Truth on the left, prediction on the right. {found.score_note}', faint=True
            ),
        )


def _caption(picture: Picture, found: Evaluation) -> str:
    return f'{picture.name}: {found.score_name} {found.shown(picture.score)}'


def _confusions(found: Evaluation) -> list[tuple[str, str, int, float]]:
    """The most frequent ones: truth, prediction, count, share of the truth."""
    counts = found.confusion.copy()
    totals = counts.sum(1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind='stable')[:_MAX_CONFUSIONS]
    names = found.confusion_names
    if not has_names(found):
        names = [f'{number} {name}' for number, name in enumerate(names)]  # as in the figure
    places = (divmod(int(index), len(names)) for index in order)
    return [
        (
            names[row],
            names[column],
            int(counts[row, column]),
            (100 if found.percent else 1) * counts[row, column] / totals[row],
        )
        for row, column in places
        if counts[row, column]
    ]


def _plain(column: np.ndarray) -> list[float | None]:
    """For JSON, which has no NaN."""
    return [None if math.isnan(value) else value for value in column.tolist()]


def _leaves(node: object, path: str = '') -> Iterator[tuple[str, str]]:
    if not (isinstance(node, Mapping) and node):
        yield path, repr(node)
        return
    for key, child in node.items():
        yield from _leaves(child, f'{path}.{key}' if path else str(key))

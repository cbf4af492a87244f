"""Several runs side by side, on a page of the same kind as the report of one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..utils import UserError, counted
from .curves import draw_several, foremost, label_of, run_style
from .evaluation import RECALLS, in_unit
from .figures import finish_precision_recall, to_svg
from .page import Page, figure, paragraph, table
from .record import Record, metrics_of, read_record
from .run_report import RunReport, cost_note, read_report, size_text, unit_of

# Longest value of a setting that is shown, characters.
_MAX_SETTING = 120


@dataclass(frozen=True)
class Run:
    """What a work folder knows of its run.

    Attributes:
        name: What it is called here.
        record: What was logged.
        report: Of its last evaluation, if there is one.
    """

    name: str
    record: Record
    report: RunReport | None

    def metrics(self) -> dict[str, float]:
        """Of the last evaluation; of the report where there is one."""
        if self.report:
            return self.report.metrics
        return metrics_of(self.record.evaluations[-1]) if self.record.evaluations else {}


def _read_run(work_dir: Path, name: str) -> Run:
    if not work_dir.is_dir():
        raise UserError(f'{work_dir} is no folder; name the work folders of runs')
    record = read_record(work_dir)
    report = read_report(work_dir)
    if report is None and not record.train:
        raise UserError(
            f'{work_dir} holds no run: neither what training logs ({work_dir}/*/vis_data/'
            'scalars.json) nor the report of an evaluation (report.json)'
        )
    return Run(name, record, report)


def read_runs(work_dirs: Sequence[str | Path]) -> list[Run]:
    """Read several runs, each named by what tells its folder from the others.

    Raises:
        UserError: One of them is no run, or is given twice.
    """
    folders = [Path(os.path.normpath(work_dir)) for work_dir in work_dirs]
    for index, folder in enumerate(folders):
        if folder in folders[:index]:
            raise UserError(f'{folder} is given twice')
    names = [folder.absolute().name for folder in folders]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    return [_read_run(*pair) for pair in zip(folders, names, strict=True)]


def compare(runs: Sequence[Run]) -> str:
    """A page of HTML that puts runs side by side."""
    page = Page('Runs side by side', [counted(len(runs), 'run')])
    reports = {run.name: run.report for run in runs if run.report}
    page.add('Metrics', table(*metrics_table(runs)), unit_of(reports.values()))
    page.add('Cost', table(*_cost_table(runs)), cost_note())
    names = [run.name for run in runs]
    if any(run.record.train for run in runs):
        svg = to_svg(draw_several({run.name: run.record for run in runs}))
        page.add('Training', figure(svg, 'losses, learning rates and metrics over iterations'))
    if any(report.curves for report in reports.values()):
        svg = to_svg(_draw_precision_recall(reports, names))
        note = 'Mean over the classes, as the report of each run draws it.'
        page.add('Precision and recall', figure(svg, 'curves'), paragraph(note, faint=True))
    for headline in dict.fromkeys(r.headline for r in reports.values() if r.headline):
        some = {name: report for name, report in reports.items() if report.headline == headline}
        page.add(f'{headline} of the classes', table(*_class_table(some)), unit_of(some.values()))
    page.add('Settings that differ', _differences(reports))
    return page.html()


def metrics_table(runs: Sequence[Run]) -> tuple[list[str], list[list[object]]]:
    """Headings and rows: a row per run, the main metrics first."""
    names = foremost(list(dict.fromkeys(name for run in runs for name in run.metrics())))
    rows = [[run.name, *(run.metrics().get(name) for name in names)] for run in runs]
    return ['run', *names], rows


def _cost_table(runs: Sequence[Run]) -> tuple[list[str], list[list[object]]]:
    rows = []
    for run in runs:
        cost = run.report.cost if run.report else {}
        rows.append(
            [
                run.name,
                cost['params'] / 1e6 if 'params' in cost else None,
                cost['flops'] / 1e9 if 'flops' in cost else None,
                size_text(cost['shape']) if 'shape' in cost else None,
                cost.get('images_per_second'),
                cost.get('batch'),
                cost.get('peak_memory_mib'),
                run.record.train[-1]['step'] if run.record.train else None,
                cost.get('machine'),
            ]
        )
    headings = ['run', 'parameters, M', 'FLOPs, G', 'FLOPs at', 'images/s', 'batch']
    return [*headings, 'GPU memory, MiB', 'iterations', 'machine'], rows


def _draw_precision_recall(reports: Mapping[str, RunReport], names: Sequence[str]) -> Figure:
    titles = list(dict.fromkeys(title for r in reports.values() for title in r.curves))
    drawing = Figure(figsize=(7 * len(titles), 4.6), layout='constrained')
    for axis, title in zip(drawing.subplots(1, len(titles), squeeze=False)[0], titles, strict=True):
        for name, report in reports.items():
            if curve := report.curves.get(title):
                label = f'{label_of(name)} {in_unit(np.mean(curve), bool(report.percent))}'
                axis.plot(RECALLS, curve, label=label, **run_style(names.index(name)))
        drawn = [report for report in reports.values() if title in report.curves]
        finish_precision_recall(axis, title, all(report.percent for report in drawn))
    return drawing


def _class_table(reports: Mapping[str, RunReport]) -> tuple[list[str], list[list[object]]]:
    columns = [
        dict(zip(report.classes, report.per_class[report.headline], strict=True))
        for report in reports.values()
    ]
    classes = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name) for column in columns)] for name in classes]
    return ['class', *reports], rows


def _differences(reports: Mapping[str, RunReport]) -> str:
    """A table of what the configs do not have in common."""
    settings = {name: report.settings for name, report in reports.items()}
    rows = []
    keys = dict.fromkeys(key for some in settings.values() for key in some)
    for key in (key for key in keys if key != 'work_dir'):  # the runs themselves
        values = [some.get(key, '') for some in settings.values()]
        if len(set(values)) > 1:
            rows.append([key, *map(_shortened, values)])
    if not rows:
        return paragraph('None, of the runs that have a report.')
    return table(['setting', *settings], rows)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SETTING else f'{text[:_MAX_SETTING]}…'

"""The table and the page of a sweep, from folders of runs written by hand."""

import csv
import html
import json
import math
import re

import pytest

from mmlab_inline.analysis.sweep import Point, trials_of
from mmlab_inline.report import collect, sweep_table, write_sweep
from mmlab_inline.report.record import Record
from mmlab_inline.report.sweep import Row, _draw_cost, _page, mean_record

MIOU = {'inline': (40.0, 43.0, 46.0), 'soft<max>': (50.0,)}


@pytest.fixture
def rows(tmp_path, write_log):
    """Three runs of one point, one and a failed one of another, none of a third."""
    points = [
        Point({'attention': 'inline'}, {'a': 1}, 2_500_000, 3_000_000_000),
        Point({'attention': 'soft<max>'}, {'a': 2}, 1_000_000, None),
        Point({'attention': 'linear'}, {'a': 3}, 1_000_000, 10**9),
    ]
    trials = trials_of(points, 3, tmp_path)
    failed = {}
    for trial in trials:
        values = MIOU.get(trial.point.values['attention'], ())
        if trial.seed < len(values):
            times = [dict(time=0.1 * trial.seed + 0.1 * n, memory=500 + n) for n in (1, 2, 9)]
            entries = [
                dict(lr=0.1, loss=2.0 + trial.seed, step=step, **clocks)
                for step, clocks in enumerate(times, 1)
            ]
            write_log('20260101_120000', *entries, work_dir=trial.folder)
            metrics = {'aAcc': 90.0, 'mIoU': values[trial.seed], 'odd': math.nan}
            (trial.folder / 'metrics.json').write_text(json.dumps(metrics))
            trial.finish()
        elif values and trial.seed == 2:
            failed[trial.folder] = 'train: the loss is not finite'
    return collect(trials, failed)


def test_table(rows):
    headings, lines = sweep_table(rows)
    cells = [dict(zip(headings, line, strict=True)) for line in lines]
    inline, softmax, linear = cells
    assert headings[:5] == ['attention', 'mIoU', '± mIoU', 'aAcc', '± aAcc']
    assert [line['attention'] for line in cells] == ['inline', 'soft<max>', 'linear']
    assert [line['seeds'] for line in cells] == [3, 1, 0]
    # Deviations are -3, 0 and 3; times, sorted, 0.1 0.2 0.2 0.3 0.3 0.4 0.9 1.0 1.1.
    assert inline['mIoU'] == pytest.approx(43)
    assert inline['± mIoU'] == pytest.approx(math.sqrt((9 + 0 + 9) / 2))
    assert inline['± aAcc'] == 0
    assert inline['s/step'] == pytest.approx(0.3)
    assert inline['memory, MiB'] == 509
    assert (inline['parameters, M'], inline['FLOPs, G']) == (2.5, 3)
    assert (softmax['mIoU'], softmax['± mIoU'], softmax['FLOPs, G']) == (50, None, None)
    assert softmax['failed'] == 'seed 2: train: the loss is not finite'
    assert (linear['mIoU'], linear['s/step'], linear['failed']) == (None, None, '')


def test_seeds_are_those_that_have_the_metric():
    """A detector that finds nothing has no AP: a mean over the others says so."""
    point = Point({'lr': '1'}, {}, 1, 1)
    for metrics, seeds, failed in (
        ([{'bbox_mAP': 0.5}, {}, {'bbox_mAP': 0.3}], 2, '1 finished run without bbox_mAP'),
        ([{}, {}], 0, '2 finished runs without metrics'),
        ([{'bbox_mAP': 0.5}], 1, ''),
    ):
        headings, (line,) = sweep_table([Row(point, metrics)])
        found = dict(zip(headings, line, strict=True))
        assert (found['seeds'], found['failed']) == (seeds, failed)


@pytest.mark.parametrize('key', ['failed', 'seeds', 'mIoU', '± mIoU', 'runs', 'lr'])
def test_a_setting_called_as_a_column(key, tmp_path):
    rows = [Row(Point({key: 'a'}, {f'other.{key}': 0, f'my.{key}': 'a'}, 1, 1), [{'mIoU': 5.0}])]
    headings, _ = sweep_table(rows)
    assert headings.count(key) == (key != 'runs')
    write_sweep(tmp_path, 'config', rows)
    (found,) = json.loads((tmp_path / 'sweep.json').read_text())
    assert found[key if key == 'lr' else f'my.{key}'] == 'a'
    assert (found['mIoU'], found['seeds'], found['failed']) == (5.0, 1, '')
    assert found['runs'] == [{'mIoU': 5.0}]


def test_names_in_figures_are_what_they_are(tmp_path):
    """``$`` begins no formula, ``_`` hides nothing, and the numbers of axes are numbers."""
    records = [Record([dict(step=1, loss=1.0, lr=1.0)], [{'step': 1, '$_{$': 1.0}])]
    names = ['_hidden', 'a$x_{$', '$', '<&']
    rows = [
        Row(Point({name: 'b'}, {}, 10**6, 10 ** (9 + n)), [{'$_{$': 5.0}], records)
        for n, name in enumerate(names)
    ]
    page = _page('config', rows).html()
    assert 'mathdefault' not in page
    assert page.count('$_{$') > 2
    for name in names:
        # In the legends of both figures.
        assert len(re.findall(f'> ?{re.escape(html.escape(name))}=b</text>', page)) == 2


def test_files(rows, tmp_path):
    write_sweep(tmp_path / 'leaves', 'my config', rows)
    with (tmp_path / 'leaves/sweep.csv').open(newline='') as file:
        lines = list(csv.DictReader(file))
    assert [line['attention'] for line in lines] == ['inline', 'soft<max>', 'linear']
    assert [line['mIoU'] for line in lines] == ['43.0', '50.0', '']
    found = json.loads((tmp_path / 'leaves/sweep.json').read_text())
    assert [run['mIoU'] for run in found[0]['runs']] == [40, 43, 46]
    assert found[1]['failed'] == 'seed 2: train: the loss is not finite'
    page = (tmp_path / 'leaves/sweep.html').read_text()
    for text in ('Sweep of my config', '3 points, 4 runs', 'the loss is not finite', '>43.00<'):
        assert text in page
    assert 'soft<max>' not in page
    assert page.count('<svg') == 2
    assert 'src="http' not in page


def test_one_costly_run_does_not_squeeze_the_others():
    cheap, costly, more = (Point({'a': n}, {}, 10**6, n * 10**9) for n in (2, 20, 21))

    def scales(*points):
        drawn = [Row(point, [{'mIoU': 50.0}]) for point in points]
        return [axis.get_xscale() for axis in _draw_cost(drawn, 'mIoU').axes]

    assert scales(cheap, costly) == ['linear', 'linear', 'linear']
    assert scales(cheap, costly, more) == ['log', 'linear', 'linear']


def test_nothing_finished(tmp_path):
    trials = trials_of([Point({'lr': '1'}, {}, 1, 1)], 1, tmp_path)
    write_sweep(tmp_path, 'config', collect(trials, {trials[0].folder: 'train: why'}))
    page = (tmp_path / 'sweep.html').read_text()
    assert 'seed 0: train: why' in page
    assert '<svg' not in page


def test_mean_of_records():
    one = Record([dict(step=1, loss=1.0, lr=1.0), dict(step=2, loss=2.0)], [dict(step=2, mIoU=1.0)])
    other = Record([dict(step=2, loss=4.0, lr=1.0)], [dict(step=2, mIoU=2.0)])
    assert mean_record([one, other]) == Record([dict(step=2, loss=3)], [dict(step=2, mIoU=1.5)])
    assert mean_record([one]) == one

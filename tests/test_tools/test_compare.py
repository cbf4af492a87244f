"""tools/analysis/compare.py on what runs have logged."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from mmlab_inline.report import RunReport

COMPARE = Path(__file__).parents[2] / 'tools/analysis/compare.py'


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Runs the tool; exit status and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(COMPARE), *arguments])
        status = 0
        try:
            runpy.run_path(str(COMPARE), run_name='__main__')
        except SystemExit as end:
            status = end.code
        return status, ''.join(capsys.readouterr())

    return run


@pytest.fixture
def runs(tmp_path):
    """One run that was trained, and two that were evaluated too."""
    for number, name in enumerate(('trained', 'a/run', 'b/run')):
        folder = tmp_path / name / '20260101_120000/vis_data'
        folder.mkdir(parents=True)
        entries = dict(lr=0.1, loss=2.0, step=1), dict(mIoU=40.0 + number, time=1.0, step=1)
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, entries)))
        if number:
            report = RunReport(
                name='run',
                about=[],
                metrics=dict(aAcc=90.0, mIoU=50.5 + number),
                cost=dict(params=2e6, flops=3e9, shape=(512, 2048)),
                settings={'same': '1', 'model.depth': str(number), 'model.other.same': '2'},
                classes=['road'],
                per_class=dict(IoU=[60.25 + number]),
                headline='IoU',
                curves={'pixels': [0.5] * 101},
            )
            (tmp_path / name / 'report.json').write_text(json.dumps(vars(report)))


def test_puts_runs_side_by_side(compare, runs, tmp_path):
    status, printed = compare('trained', 'a/run', 'b/run', '--out', 'pages/all.html')
    assert status == 0
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0][:3] == ['run', 'mIoU', 'aAcc']
    assert lines[1:4] == [
        ['trained', '40.000', '-'],
        ['a/run', '51.500', '90.000'],
        ['b/run', '52.500', '90.000'],
    ]
    assert lines[4] == ['pages/all.html', 'has', 'the', 'rest.']
    page = (tmp_path / 'pages/all.html').read_text()
    for text in ('61.25', '62.25', 'model.depth', '>2.00<', '>3.00<'):
        assert text in page
    assert 'model.other.same' not in page


def test_names_with_brackets_are_shown(compare, runs, tmp_path):
    for run, name in (('a/run', '[mala,agent]'), ('b/run', 'x[')):
        (tmp_path / run).rename(tmp_path / name)
    status, printed = compare('[mala,agent]', 'x[')
    assert status == 0
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == ['[mala,agent]', 'x[']


def test_names_in_figures_are_what_they_are(compare, runs, tmp_path):
    for run, name in (('a/run', '_hidden'), ('b/run', 'a$x_{$')):
        (tmp_path / run).rename(tmp_path / name)
    status, _ = compare('_hidden', 'a$x_{$', '--out', 'all.html')
    assert status == 0
    page = (tmp_path / 'all.html').read_text()
    for text in ('> _hidden<', '> _hidden 0.5', '>a$x_{$<', '>a$x_{$ 0.5'):
        assert text in page


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none'], 'none is no folder; name the work folders of runs'),
        (['trained', 'trained/'], 'trained is given twice'),
        (['a'], 'a holds no run: neither what training logs'),
        (['torn'], 'torn/report.json is no report of a run'),
        (['trained', '--out', 'trained'], 'trained cannot be written'),
    ],
)
def test_says_what_is_wrong(compare, runs, tmp_path, arguments, message):
    (tmp_path / 'torn').mkdir()
    (tmp_path / 'torn/report.json').write_text('{"name":')
    status, printed = compare(*arguments)
    assert status == 2
    assert printed.startswith(f'error: {message}')
    assert len(printed.splitlines()) == 1

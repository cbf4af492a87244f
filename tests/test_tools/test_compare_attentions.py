"""tools/compare_attentions.py as a user calls it, stopped and called again."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

TOOL = Path(__file__).parents[2] / 'tools/compare_attentions.py'


@pytest.mark.long
def test_quick_comparison(tmp_path):
    """Nothing is done twice: what is there is not written again."""
    command = [sys.executable, TOOL, '--quick', '--attentions', 'fcvit', 'agent', '--out', 'out']

    def run():
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run()
    out = tmp_path / 'out'
    tables = (out / 'comparison.md').read_text()
    assert tables.count('| `inline` |') == 4
    assert tables.count('| `agent` |') == 4
    assert tables.count('| `fcvit` |') == 2  # no detector, and no weights to look at
    (row,) = (
        r
        for r in json.loads((out / 'segmentation/sweep.json').read_text())
        if r['attention'] == 'fcvit'
    )
    assert f'| `fcvit` | {row["mIoU"]:.1f} |' in tables
    results = [
        *out.glob('*/*/result.json'),
        *out.glob('*/*/attention.json'),
        *out.glob('*/*_cpu.json'),
    ]
    assert len(results) == 5 + 3 + 1
    times = {path: os.stat(path).st_mtime_ns for path in results}
    (out / 'comparison.md').unlink()
    run()
    assert (out / 'comparison.md').read_text() == tables
    assert {path: os.stat(path).st_mtime_ns for path in results} == times


def test_looks_again_where_the_run_is_newer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tool = runpy.run_path(TOOL)
    run, figures = Path('out/segmentation/01_attention=mala_seed=0'), Path('out/attention/mala')
    run.mkdir(parents=True)
    (run / 'last_checkpoint').write_text('/where/it/was/iter_2.pth')
    (run / 'result.json').touch()
    Path(tool['DATA'], 'images/validation').mkdir(parents=True)
    called = []

    def call(*arguments, **environment):
        called.append(arguments)
        figures.mkdir(parents=True, exist_ok=True)
        (figures / 'attention.json').touch()

    look = tool['look']
    monkeypatch.setitem(look.__globals__, 'call', call)
    for newer, calls in ((False, 1), (False, 1), (True, 2)):
        if newer:
            later = (figures / 'attention.json').stat().st_mtime + 1
            os.utime(run / 'result.json', (later, later))
        look(SimpleNamespace(out=Path('out')), 'mala')
        assert len(called) == calls
    assert all(run / 'iter_2.pth' in arguments for arguments in called)


def test_as_many_runs_at_a_time_as_the_process_has_cores(monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {3, 5, 6})
    monkeypatch.setattr(sys, 'argv', [str(TOOL)])
    assert runpy.run_path(TOOL)['parse_args']().jobs == 3


def test_wrong_attention_ends_before_anything_is_made(tmp_path):
    command = [sys.executable, TOOL, '--quick', '--attentions', 'inlin', '--out', 'out']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ') and "did you mean 'inline'" in line
    assert not list(tmp_path.iterdir())

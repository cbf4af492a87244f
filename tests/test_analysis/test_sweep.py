"""Runs of a sweep, with tools that only write down how they were called."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmlab_inline.analysis.sweep import Point, Workers, claimed, trials_of
from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import UserError

ROOT = Path(__file__).parents[2]
# They take the arguments of the real ones. ``rate`` says what becomes of the run.
TOOL = """
import json, os, signal, sys, time
from pathlib import Path
from mmlab_inline.cli import ArgumentParser
parser = ArgumentParser()
parser.add_config_arguments('a=1')
for name in ('--work-dir', '--seed'):
    parser.add_argument(name)
for name in ('--resume', '--from-scratch'):
    parser.add_argument(name, action='store_true')
if sys.argv[0].endswith('test.py'):
    parser.add_argument('checkpoint')
args = parser.parse_args()
folder, rate = Path(args.work_dir), args.cfg_options['rate']
with open(folder / 'calls', 'a') as calls:
    print(json.dumps([Path(sys.argv[0]).stem, sys.argv[1:]]), file=calls)
(folder / 'environment').write_text(json.dumps(dict(os.environ)))
"""
TRAIN = """
if rate == 'slow':
    signal.signal(signal.SIGTERM, lambda *_: (folder / 'saved').touch() or sys.exit(143))
    (folder / 'started').touch()
    time.sleep(1.5)
if rate == 'together':
    (folder / 'started').touch()
    while len(list(folder.parent.glob('*/started'))) < 2:
        time.sleep(0.01)
if rate == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
if rate == 'refused':
    print('error: the loss is not finite', file=sys.stderr)
    print('and some last words')
    sys.exit(2)
if rate == 'signalled':
    os.kill(os.getpid(), 40)
if rate == 'crashed':
    raise ValueError('of the crash')
if rate == 'chained':
    try:
        raise KeyError('first')
    except KeyError:
        raise RuntimeError(f'boom{chr(10)}  Compile with its advice{chr(10)}second line')
if rate == 'grumbled':
    print('no traceback', 'last words', sep=chr(10))
    sys.exit(1)
print('The last checkpoint is last.pth.')
if rate != 'short':
    print('Test it with', '    python tools/test.py CONFIG \\'a b/last.pth\\'', sep=os.linesep)
"""
TEST = """
if rate == 'untestable':
    sys.exit(3)
if rate == 'torn':
    (folder / 'metrics.json').write_text('{')
    sys.exit()
(folder / 'metrics.json').write_text(json.dumps({'mIoU': 40.0 + int(args.checkpoint[0] == 'a')}))
"""
# A sweep in a process of its own, to be killed.
SWEEP = """
import signal, sys
from pathlib import Path
from mmlab_inline.analysis.sweep import Point, Workers, claimed, trials_of
signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
folder = Path(sys.argv[1])
trials = trials_of([Point({'rate': 'slow'}, {'rate': 'slow'}, 1, None)], 3, folder)
with claimed(folder, {}) as lock:
    list(Workers(Path(sys.argv[2]), 'CONFIG', False, lock, int(sys.argv[3])).run(trials))
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    folder = tmp_path / 'tools'
    folder.mkdir()
    (folder / 'train.py').write_text(TOOL + TRAIN)
    (folder / 'test.py').write_text(TOOL + TEST)
    return folder


def trial_of(folder, rate, seeds=1, **options):
    points = [Point({'rate': str(rate)}, {'rate': rate, **options}, 1, None)]
    return trials_of(points, seeds, folder)[-1]


def calls(trial):
    return [json.loads(line) for line in (trial.folder / 'calls').read_text().splitlines()]


def test_trains_and_tests_with_the_options(tools, tmp_path):
    options = dict(model={'type': 'A', 'sizes': (1, 2)}, none=None, text="it's", lr=1e-4)
    trial = trial_of(tmp_path / 'out', 'plain', 2, **options)
    with claimed(tmp_path / 'out', {}) as lock:
        assert trial.result() is None
        assert list(Workers(tools, 'CONFIG', True, lock).run([trial])) == [(trial, '')]
    assert trial.result() == {'mIoU': 41.0}
    (train, trained), (test, tested) = calls(trial)
    assert (train, test) == ('train', 'test')
    assert {'--resume', '--from-scratch'} <= set(trained)
    assert trained[trained.index('--seed') + 1] == '1'
    assert 'a b/last.pth' in tested
    parser = ArgumentParser()
    parser.add_config_arguments('a=1')
    for arguments in (trained, tested):
        read = parser.parse_args(['CONFIG', *arguments[arguments.index('--cfg-options') :]])
        assert read.cfg_options == {'rate': 'plain', **options}


@pytest.mark.parametrize(
    ('rate', 'reason'),
    [
        ('killed', 'train: ended by SIGKILL'),
        ('refused', 'train: the loss is not finite'),
        ('crashed', 'train: ValueError: of the crash'),
        ('signalled', 'train: ended by signal 40'),
        ('chained', 'train: RuntimeError: boom'),
        ('grumbled', 'train: last words'),
        ('torn', 'metrics.json is no JSON'),
        ('short', 'no checkpoint was written'),
        ('untestable', 'test: exit status 3'),
    ],
)
def test_a_run_that_fails_has_a_reason_and_no_result(rate, reason, tools, tmp_path):
    trial = trial_of(tmp_path / 'out', rate)
    with claimed(tmp_path / 'out', {}) as lock:
        ((ended, found),) = Workers(tools, 'CONFIG', False, lock).run([trial])
    assert ended is trial
    assert found.endswith(reason)
    assert trial.result() is None


def test_all_are_told_to_stop_though_some_end_meanwhile(tmp_path):
    with claimed(tmp_path / 'out', {}) as lock:
        workers = Workers(tmp_path / 'none', 'CONFIG', False, lock)
        told = []

        class Process:
            def terminate(self):
                told.append(self)
                workers._processes.discard(self)

        runs = workers.run([trial_of(tmp_path / 'out', 'plain')])
        next(runs)
        processes = {Process(), Process(), Process()}
        workers._processes |= processes
        runs.close()
        assert set(told) == processes


def start(tools, folder, jobs=1):
    process = subprocess.Popen([sys.executable, '-c', SWEEP, folder, tools, str(jobs)])
    for _ in range(1200):
        if len(list(folder.glob('*/started'))) == jobs:
            return process, trial_of(folder, 'slow')
        assert process.poll() is None
        time.sleep(0.05)
    raise AssertionError('the run does not start')


def test_a_killed_sweep_leaves_no_two_runs_in_a_folder(tools, tmp_path, capsys):
    process, trial = start(tools, tmp_path)
    process.kill()
    process.wait()
    assert trial.result() is None
    with claimed(tmp_path, {}) as lock:
        # The run that was left has come to its end, and only now another may start.
        assert 'last.pth' in (trial.folder / 'train.txt').read_text()
        assert list(Workers(tools, 'CONFIG', False, lock).run([trial])) == [(trial, '')]
    assert 'A run is still going' in capsys.readouterr().out
    assert trial.result() == {'mIoU': 41.0}
    assert [name for name, _ in calls(trial)] == ['train', 'train', 'test']


@pytest.mark.parametrize('jobs', [1, 2])
def test_a_sweep_that_is_told_to_stop_lets_the_runs_save(jobs, tools, tmp_path):
    process, trial = start(tools, tmp_path, jobs)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 143
    assert len(list(tmp_path.glob('*/saved'))) == len(list(tmp_path.glob('*/started'))) == jobs
    assert trial.result() is None


@pytest.mark.parametrize(
    ('gpus', 'visible', 'key', 'expected'),
    [
        (0, None, 'OMP_NUM_THREADS', {'2'}),
        (2, None, 'CUDA_VISIBLE_DEVICES', {'0', '1'}),
        (2, 'GPU-5,7', 'CUDA_VISIBLE_DEVICES', {'GPU-5', '7'}),
    ],
)
def test_runs_at_a_time_have_a_place_each(
    gpus, visible, key, expected, tools, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(4)))
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if visible:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    points = [Point({'rate': 'together'}, {'rate': 'together'}, 1, None)]
    trials = trials_of(points, 2, tmp_path)
    with claimed(tmp_path, {}) as lock:
        ends = list(Workers(tools, 'CONFIG', False, lock, 2).run(trials))
    assert [reason for _, reason in ends] == ['', '']
    found = [json.loads((trial.folder / 'environment').read_text())[key] for trial in trials]
    assert set(found) == expected


def test_folder_of_another_sweep(tmp_path):
    sweep = {'config': 'a.py', 'vary': [('lr', {'1': 1})]}
    for classes in ({0, 8}, {8, 0}):  # equal, and each of an order of its own
        with claimed(tmp_path / 'out', {**sweep, 'settings': {1: object, 'classes': classes}}):
            pass
    with (
        pytest.raises(UserError, match='holds another sweep'),
        claimed(tmp_path / 'out', {**sweep, 'settings': {1: object, 'classes': {0, 9}}}),
    ):
        pass
    (tmp_path / 'out/plan.json').write_bytes(b'\xff\xfe')
    with pytest.raises(UserError, match='holds another'), claimed(tmp_path / 'out', sweep):
        pass
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file cannot be written'), claimed(tmp_path / 'file', {}):
        pass


OWN = '{"run": {"options": {"rate": "\'plain\'"}, "seed": 0}'


@pytest.mark.parametrize(
    'content',
    [
        '{"run":',
        '[]',
        '{"run": {"options": {}, "seed": 0}, "metrics": {}}',
        f'{OWN}}}',
        f'{OWN}, "metrics": null}}',
        f'{OWN}, "metrics": {{"\xff": 1}}}}',
    ],
)
def test_result_of_other_options_or_torn(content, tmp_path):
    trial = trial_of(tmp_path, 'plain')
    trial.folder.mkdir()
    path = trial.folder / 'result.json'
    path.write_text(f'{OWN}, "metrics": {{"mIoU": 1}}}}')
    assert trial.result() == {'mIoU': 1}
    path.write_bytes(content.encode('latin-1'))
    with pytest.raises(UserError, match='is not of this run'):
        trial.result()


def test_names_of_folders(tmp_path):
    points = [
        Point({'attention': text}, {}, 1, None) for text in ('a', "{'type': 'a/b'}", 'x' * 200)
    ]
    folders = [trial.folder.name for trial in trials_of(points, 2, tmp_path)]
    assert folders[:2] == ['01_attention=a_seed=0', '02_attention=_type_a_b_seed=0']
    assert len(set(folders)) == 6
    assert max(map(len, folders)) < 100

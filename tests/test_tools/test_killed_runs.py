"""Training that is killed at random moments and resumed is the training that was not."""

import json
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmlab_inline.datasets import write_dataset

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / 'tools/train.py')
# 18 iterations on 12 drawings, with all that is random switched on.
CONFIGS = {
    'epochs': """
_base_ = 'ROOT/configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'
model = dict(
    backbone=dict(
        arch=dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4)),
        drop_path_rate=0.2,
    ),
    neck=dict(in_channels=[8, 16, 24, 32]),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)),
)
data = dict(data_root='DATA/coco/')
train_dataloader = dict(batch_size=2, num_workers=WORKERS, dataset=data)
val_dataloader = dict(dataset=data)
val_evaluator = dict(ann_file='DATA/coco/annotations/instances_val2017.json')
train_cfg = dict(max_epochs=3, val_interval=1)
checkpoint = dict(interval=1, max_keep_ckpts=1)
""",
    'iterations': """
_base_ = 'ROOT/configs/demo/sem-fpn_inline-swin-demo_shapes.py'
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(embed_dims=8, num_heads=(1, 2, 4, 4)), drop_path_rate=0.2),
    neck=dict(in_channels=[8, 16, 32, 64]),
    decode_head=dict(dropout_ratio=0.2),
)
data = dict(data_root='DATA/ade/ADEChallengeData2016')
train_dataloader = dict(batch_size=2, num_workers=WORKERS, dataset=data)
val_dataloader = dict(dataset=data)
train_cfg = dict(max_iters=18, val_interval=6)
checkpoint = dict(interval=3, max_keep_ckpts=1, save_best='mIoU')
""",
}
LAST = {'epochs': 'epoch_3.pth', 'iterations': 'iter_18.pth'}


@pytest.fixture(scope='module')
def write_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('killed')
    write_dataset(folder / 'data', 12, 4, size=64, classes=('circle', 'ring', 'cross'))

    def write(kind, workers=0):
        text = CONFIGS[kind].replace('ROOT', str(ROOT)).replace('DATA', str(folder / 'data'))
        text += 'default_hooks = dict(logger=dict(interval=1), checkpoint=checkpoint)\n'
        path = folder / f'{kind}_{workers}.py'
        path.write_text(text.replace('WORKERS', str(workers)))
        return path

    return write


@pytest.fixture
def by_command(monkeypatch):
    """Starts the command that a user types; its output goes to a file."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')

    def start(config, work_dir):
        with (work_dir / 'printed.txt').open('a') as printed:
            return subprocess.Popen(
                [sys.executable, TRAIN, *arguments(config, work_dir)],
                stdout=printed,
                stderr=subprocess.STDOUT,
            )

    return start


def arguments(config, work_dir):
    return [str(config), '--work-dir', str(work_dir), '--seed', '5', '--resume']


class Forked:
    """The same command in a fork of a process that has imported everything, to save the seconds."""

    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.apis', 'mmseg.apis', 'mmlab_inline.engine'])

    def __init__(self, config, work_dir):
        self.process = self.context.Process(target=train, args=(config, work_dir))
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.process.exitcode


def train(config, work_dir):
    printed = os.open(work_dir / 'printed.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    torch.set_num_threads(1)
    sync = os.fsync
    # A disk that takes its time, so that kills hit a file that is being written.
    os.fsync = lambda file: time.sleep(0.05) or sync(file)
    sys.argv = [TRAIN, *arguments(config, work_dir)]
    runpy.run_path(TRAIN, run_name='__main__')


def count(word, work_dir):
    return sum(log.read_text().count(word) for log in work_dir.glob('2*/*.log'))


def wait_for(moment, process, work_dir, draw):
    """Wait until the run trains, saves or evaluates; whether it was caught before its end."""
    word = {'training': '(train)', 'evaluating': '(val)'}.get(moment)
    target = word and count(word, work_dir) + draw.randint(1, 6 if moment == 'training' else 3)
    while process.poll() is None:
        if moment == 'saving' and list(work_dir.glob('.*.part')):
            return True
        if word and count(word, work_dir) >= target:
            time.sleep(draw.uniform(0, 0.05))
            return True
        time.sleep(0.001 if moment == 'saving' else 0.02)
    return False


def records(work_dir):
    """Logged losses and rates per step; every run that came by a step has to log the same."""
    steps = {}
    for file in work_dir.glob('2*/vis_data/scalars.json'):
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the kill cut it off
            if 'lr' in record:
                kept = {
                    key: value
                    for key, value in record.items()
                    if key not in ('time', 'data_time', 'memory')
                }
                assert steps.setdefault(record['step'], kept) == kept
    return steps


def assert_same(kind, work_dir, whole):
    assert records(work_dir) == records(whole)
    assert len(records(whole)) == 18
    one, other = (torch.load(path / LAST[kind], weights_only=False) for path in (work_dir, whole))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][name]), name
    expected = other['optimizer']['state']
    for number, state in one['optimizer']['state'].items():
        for name, value in state.items():
            assert torch.equal(value, expected[number][name]), (number, name)
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / LAST[kind])
    assert not list(work_dir.glob('.*.part'))


def uninterrupted(start, config, folder):
    whole = folder / 'whole'
    whole.mkdir()
    assert start(config, whole).wait() == 0, (whole / 'printed.txt').read_text()[-3000:]
    return whole


def test_killed_terminated_and_torn_by_the_command(write_config, by_command, tmp_path):
    config = write_config('iterations')
    whole = uninterrupted(by_command, config, tmp_path)
    work_dir = tmp_path / 'killed'
    work_dir.mkdir()
    draw = random.Random(0)
    process = by_command(config, work_dir)
    assert wait_for('saving', process, work_dir, draw)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    process = by_command(config, work_dir)
    assert wait_for('training', process, work_dir, draw)
    process.terminate()
    assert process.wait() == 143
    printed = (work_dir / 'printed.txt').read_text()
    assert 'SIGTERM: stopped after iteration' in printed.splitlines()[-1]
    assert 'Traceback' not in printed

    newest = Path((work_dir / 'last_checkpoint').read_text())
    assert newest.name == 'interrupted.pth'
    newest.write_bytes(newest.read_bytes()[:-100])
    assert by_command(config, work_dir).wait() == 0
    assert f'{newest} is torn' in (work_dir / 'printed.txt').read_text()
    assert_same('iterations', work_dir, whole)


@pytest.mark.long
@pytest.mark.parametrize('kind, workers', [('epochs', 0), ('iterations', 0), ('iterations', 2)])
def test_killed_again_and_again(kind, workers, write_config, tmp_path):
    """At least 20 kills, of each kind of moment at least three."""
    config = write_config(kind, workers)
    whole = uninterrupted(Forked, config, tmp_path)
    draw = random.Random(workers)
    kills = dict(training=0, saving=0, evaluating=0)
    number = 0
    while sum(kills.values()) < 20 or min(kills.values()) < 3:
        work_dir = tmp_path / f'killed_{number}'
        work_dir.mkdir()
        number += 1
        while True:
            moment = draw.choice(list(kills))
            process = Forked(config, work_dir)
            if not wait_for(moment, process, work_dir, draw):
                assert process.wait() == 0, (work_dir / 'printed.txt').read_text()[-3000:]
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills[moment] += 1
        assert_same(kind, work_dir, whole)
    print(f'{kind}: {kills} in {number} runs')

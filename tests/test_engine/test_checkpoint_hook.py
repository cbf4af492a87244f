import os
from pathlib import Path

import pytest

from mmlab_inline.engine import find_checkpoint
from mmlab_inline.engine.checkpoint_hook import best_checkpoints
from mmlab_inline.utils import UserError, load_checkpoint


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors catches it."""


@pytest.fixture
def kill_while_saving(monkeypatch):
    """Ends the process at the n-th sync of a file or folder from now on."""
    fsync = os.fsync

    def set_moment(number):
        count = 0

        def sync(file):
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            fsync(file)

        monkeypatch.setattr(os, 'fsync', sync)

    yield set_moment


def test_keeps_the_newest_and_the_best(build_run, tmp_path):
    keep = dict(max_keep_ckpts=1, save_best='acc')
    runner, _ = build_run(length=4, values=[0.1, 0.5, 0.3, 0.4], checkpoint=keep)
    runner.train()
    kept = {'epoch_4.pth', 'best_acc_epoch_2.pth', 'last_checkpoint'}
    assert {name for name in files(tmp_path / 'run') if not name.endswith('.py')} == kept
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run/epoch_4.pth')
    assert runner.message_hub.get_info('best_ckpt').endswith('best_acc_epoch_2.pth')


@pytest.mark.parametrize(
    ('values', 'best', 'note'),
    [
        ([0.2, 0.5, 0.5, 0.4], ('acc', 0.5, 'best_acc_epoch_3.pth'), None),
        ([0.0, 0.0, 0.0, 0.0], None, 'acc was never above 0'),
    ],
)
def test_says_what_was_best(values, best, note, build_run):
    runner, _ = build_run(length=4, values=values, checkpoint=dict(save_best='acc'))
    runner.train()
    found, notes = best_checkpoints(runner)
    assert [(*entry[:2], Path(entry[2]).name) for entry in found] == ([best] if best else [])
    assert len(notes) == bool(note) and all(note in line for line in notes)


def test_a_run_that_goes_on_elsewhere_leaves_the_best_of_the_first(build_run, tmp_path):
    keep = dict(save_best='acc')
    runner, _ = build_run(length=1, values=[0.1], checkpoint=keep)
    runner.train()
    path = tmp_path / 'run/epoch_1.pth'
    settings = dict(length=2, values=[0.5], work_dir='other', checkpoint=keep)
    build_run(resume=path, **settings)[0].train()
    assert (tmp_path / 'run/best_acc_epoch_1.pth').is_file()
    assert (tmp_path / 'other/best_acc_epoch_2.pth').is_file()


@pytest.mark.parametrize('moment', range(1, 9))
def test_killed_while_saving_there_is_always_a_whole_one(
    moment, build_run, tmp_path, kill_while_saving
):
    # Epoch 2 saves four files, each synced with its folder: epoch_2.pth and last_checkpoint after
    # training, the best and again epoch_2.pth after the evaluation.
    keep = dict(max_keep_ckpts=1, save_best='acc')
    folder = tmp_path / 'run'
    runner, _ = build_run(length=1, values=[0.1], checkpoint=keep)
    runner.train()
    before = find_checkpoint(folder)
    settings = dict(length=2, values=[0.5, 0.5], checkpoint=keep)
    runner, _ = build_run(resume=before, **settings)
    kill_while_saving(moment)
    with pytest.raises(Killed):
        runner.train()
    kill_while_saving(0)
    left = find_checkpoint(folder)
    assert left.name == ('epoch_1.pth' if moment < 4 else 'epoch_2.pth')
    best = list(folder.glob('best_*.pth'))
    assert best
    for path in best:
        load_checkpoint(path)

    runner, recorder = build_run(resume=left, **settings)
    runner.train()
    assert list(recorder.losses) == ([*range(5, 10)] if moment < 4 else [])
    assert runner.message_hub.get_info('best_score') == 0.5
    assert Path(runner.message_hub.get_info('best_ckpt')).name == 'best_acc_epoch_2.pth'
    assert not list(folder.glob('.*.part'))
    assert not (folder / 'epoch_1.pth').exists()


def test_full_disk_leaves_the_previous_checkpoint(build_run, tmp_path, monkeypatch):
    def fill_disk(runner):
        if runner.iter == 9:
            monkeypatch.setattr(os, 'fsync', full)

    def full(file):
        raise OSError(28, 'No space left on device')

    runner, _ = build_run(act=fill_disk, checkpoint=dict(max_keep_ckpts=1))
    with pytest.raises(UserError, match=r'epoch_2\.pth cannot be written: No space left on device'):
        runner.train()
    monkeypatch.undo()
    names = {name for name in files(tmp_path / 'run') if not name.endswith('.py')}
    assert names == {'epoch_1.pth', 'last_checkpoint'}
    left = find_checkpoint(tmp_path / 'run')
    assert left.name == 'epoch_1.pth'
    assert load_checkpoint(left)['meta']['iter'] == 5


def test_evaluation_that_was_cut_off_is_made_up_for_once(build_run, tmp_path):
    folder = tmp_path / 'run'
    settings = dict(length=2, values=[0.1, 0.2])
    runner, _ = build_run(**settings)

    def die(size):
        raise Killed

    runner._val_evaluator.evaluate = die
    with pytest.raises(Killed):
        runner.train()
    assert find_checkpoint(folder).name == 'epoch_1.pth'
    runner, recorder = build_run(resume=find_checkpoint(folder), **settings)
    runner.train()
    assert runner._val_evaluator.num_runs == 2
    assert list(recorder.losses) == list(range(5, 10))
    # Both evaluations are over: nothing is left to do.
    runner, recorder = build_run(resume=find_checkpoint(folder), **settings)
    runner.train()
    assert runner._val_evaluator.num_runs == 0
    assert not recorder.losses

import os
import signal
import subprocess

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from mmlab_inline.engine import NonFiniteLossHook, find_checkpoint
from mmlab_inline.engine.termination_hook import any_process
from mmlab_inline.utils import load_checkpoint


@pytest.fixture(autouse=True)
def restore_signal():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(('number', 'status'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stops_after_the_iteration(number, status, build_run, tmp_path):
    def terminate(runner):
        if runner.iter == 6:
            os.kill(os.getpid(), number)

    runner, recorder = build_run(act=terminate)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == status
    assert list(recorder.losses) == list(range(7))
    path = find_checkpoint(tmp_path / 'run')
    assert path.name == 'interrupted.pth'
    assert load_checkpoint(path)['meta']['iter'] == 7
    assert load_checkpoint(path)['meta']['epoch'] == 1

    # The next regular checkpoint takes its place, and the signal is given back.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runner, _ = build_run(resume=path)
    runner.train()
    assert not path.exists()
    assert find_checkpoint(tmp_path / 'run').name == 'epoch_3.pth'
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_ends_at_once(build_run, capfd):
    def interrupt(runner):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    runner, recorder = build_run(act=interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert list(recorder.losses) == [0]
    assert 'once more ends it now' in capfd.readouterr().err


def test_stops_inside_an_evaluation(build_run, tmp_path):
    settings = dict(length=2, values=[0.1, 0.2])
    runner, _ = build_run(**settings)
    process = runner._val_evaluator.process

    def terminate(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        process(*args, **kwargs)

    runner._val_evaluator.process = terminate
    with pytest.raises(SystemExit):
        runner.train()
    assert runner._val_evaluator.num_runs == 0
    runner, recorder = build_run(resume=find_checkpoint(tmp_path / 'run'), **settings)
    runner.train()
    assert runner._val_evaluator.num_runs == 2
    assert list(recorder.losses) == list(range(5, 10))


@pytest.mark.parametrize(('name', 'status'), [('-TERM', 143), ('-INT', 130)])
def test_signal_to_the_whole_job_leaves_the_loaders(name, status, build_run, tmp_path):
    """Clusters and terminals signal every process of a job, the workers too."""

    def terminate(runner):
        if runner.iter == 6:
            # From another process: the workers obey their own run alone.
            pids = [os.getpid(), *(worker.pid for worker in mp.active_children())]
            assert len(pids) == 3
            subprocess.run(['kill', name, *map(str, pids)], check=True)

    runner, recorder = build_run(act=terminate, workers=2)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == status
    assert list(recorder.losses) == list(range(7))


def agree(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    answers = [any_process(False), any_process(rank == 1), any_process(True)]
    (folder / f'{rank}').write_text(repr(answers))


def test_processes_agree(tmp_path):
    mp.start_processes(agree, (tmp_path,), nprocs=2, start_method='fork')
    for rank in range(2):
        assert (tmp_path / f'{rank}').read_text() == repr([False, True, True])


def train_together(rank, folder, build_run, with_losses):
    """One of two processes, of which the second gets a signal after its seventh iteration."""
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    reduce, counts = dist.all_reduce, []
    dist.all_reduce = lambda *args, **kwargs: counts.append(1) or reduce(*args, **kwargs)

    def terminate(runner):
        if runner.iter == 6 and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    runner, recorder = build_run(by_epoch=False, act=terminate)
    if not with_losses:
        runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, NonFiniteLossHook)]
    try:
        runner.train()
    except SystemExit as stop:
        done = len(recorder.losses)
        (folder / f'{rank}').write_text(repr((stop.code, done, len(counts))))


@pytest.mark.parametrize('with_losses', [True, False])
def test_processes_talk_once_per_iteration(with_losses, build_run, tmp_path):
    """The signal goes along with the loss, that is of the next iteration; alone otherwise."""
    arguments = (tmp_path, build_run, with_losses)
    mp.start_processes(train_together, arguments, nprocs=2, start_method='fork')
    done = 8 if with_losses else 7
    for rank in range(2):
        assert (tmp_path / f'{rank}').read_text() == repr((143, done, done))
    path = find_checkpoint(tmp_path / 'run')
    assert load_checkpoint(path)['meta']['iter'] == done

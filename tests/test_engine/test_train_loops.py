"""A run that is stopped anywhere and resumed is the run that was never stopped."""

import os
import random
import signal

import numpy as np
import pytest
import torch

from mmlab_inline.engine import find_checkpoint
from mmlab_inline.runs.seeding import seed_everything


def stop_at(iteration):
    def act(runner):
        if runner.iter == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    return act


def end_workers(runner):
    """Persistent ones end by themselves only with the process, or when Python collects them."""
    iterator = runner.train_dataloader._iterator
    if iterator is not None:
        iterator._shutdown_workers()


def run_with_stops(build_run, stops, **settings):
    """Run, stopped by SIGTERM after every iteration in ``stops``; last runner, records."""
    losses, images = {}, {}
    for stop in [*stops, None]:
        resume = find_checkpoint(build_run.folder / 'run')
        runner, recorder = build_run(act=stop_at(stop), resume=resume, **settings)
        if stop is None:
            runner.train()
        else:
            with pytest.raises(SystemExit) as end:
                runner.train()
            assert end.value.code == 143
            del end  # its traceback holds on to the loader
        end_workers(runner)
        assert not set(losses) & set(recorder.losses)
        losses |= recorder.losses
        images |= recorder.images
    return runner, losses, images


@pytest.fixture
def build_run(build_run, tmp_path):
    build_run.folder = tmp_path
    yield build_run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def assert_same_run(build_run, stops, **settings):
    whole, expected = build_run(work_dir='whole', **settings)
    whole.train()
    end_workers(whole)
    runner, losses, images = run_with_stops(build_run, stops, **settings)
    assert images == expected.images
    assert losses == expected.losses
    for name, value in whole.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], value), name
    return expected


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
@pytest.mark.parametrize(
    'workers, persistent', [(0, False), (2, False), (2, True)], ids=['0', '2', 'persistent']
)
def test_resumes_exactly(build_run, by_epoch, workers, persistent):
    # In the first epoch, at its end, and in the last one.
    settings = dict(by_epoch=by_epoch, workers=workers, persistent=persistent)
    expected = assert_same_run(build_run, [1, 4, 10], **settings)
    assert list(expected.losses) == list(range(15))
    assert len({rate for _, _, rate in expected.losses.values()}) > 3


@pytest.mark.long
def test_resumes_after_any_iteration(build_run):
    assert_same_run(build_run, range(14))


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_resumes_inside_an_accumulation(build_run, by_epoch):
    # Steps are after iterations 4, 8, 12 and the last.
    assert_same_run(build_run, [1, 5, 9], by_epoch=by_epoch, accumulate=4)


def test_resumes_where_the_sampler_is_not_endless(build_run):
    assert_same_run(build_run, [3, 4, 11], by_epoch=False, sampler='DefaultSampler')


@pytest.mark.parametrize('by_epoch', [True, False], ids=['epochs', 'iterations'])
def test_skipped_data_are_not_loaded(build_run, by_epoch, tmp_path):
    with pytest.raises(SystemExit):
        build_run(by_epoch=by_epoch, act=stop_at(7))[0].train()
    runner, _ = build_run(by_epoch=by_epoch, resume=find_checkpoint(tmp_path / 'run'))
    runner.train()
    # Of 15 batches of two.
    assert runner.train_dataloader.dataset.num_loaded == 14


def test_drawn_seed_is_kept(build_run):
    runner, losses, _ = run_with_stops(build_run, [6], seed=None)
    whole, expected = build_run(work_dir='whole', seed=runner.seed)
    whole.train()
    assert losses == expected.losses


def test_sample_does_not_depend_on_workers(build_run):
    records = []
    for workers in (0, 2):
        runner, recorder = build_run(work_dir=f'{workers}', workers=workers, length=1)
        runner.train()
        records.append(recorder.losses)
    assert records[0] == records[1]


def test_epochs_and_seeds_differ(build_run):
    records = {}
    for seed in (3, 4):
        runner, recorder = build_run(work_dir=f'{seed}', seed=seed, length=2)
        runner.train()
        records[seed] = recorder.images
    assert records[3] != records[4]
    epochs = [[records[3][start + i] for i in range(5)] for start in (0, 5)]
    assert epochs[0] != epochs[1]
    assert all(len({name for batch in epoch for name in batch}) == 10 for epoch in epochs)


def test_seeds_of_samples_differ():
    draws = set()
    # An iteration itself, two of its samples, and samples of another iteration, rank and seed.
    for numbers in ('307', '3071', '3072', '3081', '3171', '4071'):
        seed_everything(*map(int, numbers))
        draws.add((random.random(), np.random.rand(), torch.rand(()).item()))
    assert all(len(set(values)) == 6 for values in zip(*draws, strict=True))


def test_another_epoch_length_restarts_the_epoch(build_run, tmp_path):
    with pytest.raises(SystemExit):
        build_run(act=stop_at(6))[0].train()
    resume = find_checkpoint(tmp_path / 'run')
    runner, recorder = build_run(resume=resume, batch_size=5)
    runner.train()
    assert [len(images) for images in recorder.images.values()] == [5] * 4  # epochs 2 and 3

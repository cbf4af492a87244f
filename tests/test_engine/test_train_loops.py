"""A run that is stopped anywhere and resumed is the run that was never stopped."""

import os
import signal

import pytest
import torch

from mmlab_inline.engine import find_checkpoint


def stop_at(iteration):
    def act(runner):
        if runner.iter == iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    return act


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


def test_resumes_after_any_iteration(build_run):
    assert_same_run(build_run, range(14))

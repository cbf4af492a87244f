"""Sample 7 of the tiny run's data is NaN."""

import multiprocessing
from types import SimpleNamespace

import pytest
import torch

from mmlab_inline.engine import NonFiniteLossHook, find_checkpoint
from mmlab_inline.utils import UserError, load_checkpoint


def bad_iteration(recorder_images):
    return next(i for i, images in recorder_images.items() if '7.png' in images)


@pytest.fixture
def clean(build_run):
    """The same run on whole data: iteration and images of the first batch with sample 7."""
    states = {}

    def keep(runner):
        states[runner.iter] = {
            name: value.clone() for name, value in runner.model.state_dict().items()
        }

    runner, recorder = build_run(work_dir='clean', act=keep)
    runner.train()
    bad = bad_iteration(recorder.images)
    assert bad > 0
    return bad, recorder, states[bad - 1]


def test_stops_with_the_state_before(build_run, clean, tmp_path):
    bad, whole, before = clean
    runner, recorder = build_run(broken=True)
    with pytest.raises(UserError) as error:
        runner.train()
    message = str(error.value)
    assert '\n' not in message
    for part in (
        f'iteration {bad + 1}: the loss is not finite',
        'loss nan, loss_a nan, loss_b nan',
        ', '.join(whole.images[bad]),
        'interrupted.pth',
        "on_non_finite='skip'",
    ):
        assert part in message
    assert recorder.losses == {i: losses for i, losses in whole.losses.items() if i < bad}
    path = find_checkpoint(tmp_path / 'run')
    assert path.name == 'interrupted.pth'
    saved = load_checkpoint(path)
    assert saved['meta']['iter'] == bad
    for name, value in saved['state_dict'].items():
        assert torch.equal(value, before[name]), name

    # On mended data it goes on as if nothing had happened.
    runner, recorder = build_run(resume=path)
    runner.train()
    losses = {i: (loss, rate) for i, (loss, _, rate) in recorder.losses.items()}
    assert losses == {i: (o[0], o[2]) for i, o in whole.losses.items() if i >= bad}


@pytest.mark.parametrize('accumulate', [1, 4])
def test_skips_the_step(build_run, tmp_path, accumulate):
    weights = {}

    def keep(runner):
        weights[runner.iter] = [p.detach().clone() for p in runner.model.parameters()]

    runner, recorder = build_run(broken=True, non_finite='skip', act=keep, accumulate=accumulate)
    runner.train()
    bad = [i for i, images in recorder.images.items() if '7.png' in images]
    assert len(bad) == 3
    assert [i for i, (loss, *_) in recorder.losses.items() if loss != loss] == bad
    for value in runner.model.state_dict().values():
        assert value.isfinite().all()
    for iteration in range(1, 15):
        pairs = zip(weights[iteration - 1], weights[iteration], strict=True)
        is_step = any(not torch.equal(before, after) for before, after in pairs)
        if accumulate == 1:
            assert is_step == (iteration not in bad)
        else:
            assert is_step == (iteration in (3, 7, 11, 14))


def test_weights_that_are_no_numbers_are_not_saved(build_run, tmp_path):
    def spoil(runner):
        if runner.iter == 6:
            next(runner.model.parameters()).data.fill_(float('inf'))

    runner, _ = build_run(act=spoil)
    with pytest.raises(UserError, match='weights were not finite before it'):
        runner.train()
    assert find_checkpoint(tmp_path / 'run').name == 'epoch_1.pth'


def stop(rank, folder, said):
    """In one of two processes, whose shares of the weights differ."""
    init = f'file://{folder}/rendezvous'
    torch.distributed.init_process_group('gloo', init, rank=rank, world_size=2)
    model = torch.nn.Linear(1, 1)
    if rank == 1:
        model.weight.data.fill_(float('nan'))
    runner = SimpleNamespace(model=model, iter=3, epoch=1, work_dir=folder)
    runner.save_checkpoint = lambda *args, **kwargs: None
    try:
        NonFiniteLossHook()._stop(runner, 'bad')
    except UserError as error:
        said.put(str(error))


def test_processes_with_other_shares_of_the_weights_agree(tmp_path):
    context = multiprocessing.get_context('fork')
    said = context.Queue()
    processes = [context.Process(target=stop, args=(rank, tmp_path, said)) for rank in range(2)]
    for process in processes:
        process.start()
    messages = [said.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all('weights were not finite before it' in message for message in messages), messages


def test_unknown_choice():
    with pytest.raises(ValueError, match="'stop', 'skip'"):
        NonFiniteLossHook('ignore')

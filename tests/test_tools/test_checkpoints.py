"""Checkpoints given to the tools: never executed, and of another number of classes on request."""

import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmlab_inline.datasets import write_dataset
from mmlab_inline.engine import load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
SEGMENTOR = ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py'
COMMAND = f'{os.system.__module__}.system'
SHORT = [
    'train_cfg.max_iters=1',
    'train_cfg.val_interval=100',
    'default_hooks.checkpoint.interval=1',
    'train_dataloader.batch_size=2',
]


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.marker}',)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A work folder with a few drawings."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / 'work_dirs/demo/data', 2, 2, classes=('circle', 'triangle', 'cross'))
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Runs a tool; its exit status and its last line of errors."""

    def run(tool: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        except SystemExit as stop:
            status = stop.code
        lines = [line for line in capsys.readouterr().err.splitlines() if line[:7] == 'error: ']
        return status, ''.join(lines)

    return run


def segmentor(**settings: int) -> dict[str, torch.Tensor]:
    init_default_scope('mmseg')
    cfg = load_config(str(SEGMENTOR)).model
    cfg.decode_head.update(settings)
    return MODELS.build(cfg).state_dict()


@pytest.fixture
def evil(folder):
    """Path and marker of a checkpoint with an attack beside everything that a run needs."""
    path, marker = folder / 'evil.pth', folder / 'marker'
    content = dict(
        state_dict=segmentor(),
        meta=dict(epoch=0, iter=0),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        attack=Evil(marker),
    )
    torch.save(content, path)
    yield path
    assert not marker.exists()


@pytest.mark.parametrize('option', ['--resume', '--load-from'])
def test_train(option, run, evil):
    status, error = run('train.py', SEGMENTOR, option, evil, '--cfg-options', *SHORT)
    assert status == 2
    assert f'{evil} is refused, it would run {COMMAND}' in error
    assert 'MMLAB_INLINE_UNSAFE_CHECKPOINTS=1' in error


def test_load_from_in_the_config(run, evil):
    status, error = run('train.py', SEGMENTOR, '--cfg-options', *SHORT, f'load_from={evil}')
    assert (status, COMMAND in error) == (2, True)


@pytest.mark.parametrize('part', ['backbone', 'neck', 'decode_head'])
def test_init_cfg(part, run, evil, folder):
    """Of the backbone here, and of modules by others."""
    config = folder / 'config.py'
    config.write_text(
        f"_base_ = '{SEGMENTOR}'\n"
        f"model = dict({part}=dict(init_cfg=dict(type='Pretrained', checkpoint='{evil}')))\n"
    )
    status, error = run('train.py', config, '--cfg-options', *SHORT)
    assert (status, COMMAND in error) == (2, True)


def test_test(run, evil):
    status, error = run('test.py', SEGMENTOR, evil)
    assert (status, COMMAND in error) == (2, True)


def test_convert(run, evil, folder):
    status, error = run('convert_checkpoint.py', evil, folder / 'target.pth')
    assert (status, COMMAND in error) == (2, True)


def test_new_classes(run, folder):
    """After an iteration at rate 0 all is as in the checkpoint but what the classes shape."""
    weights = segmentor(num_classes=21)
    path = folder / 'other.pth'
    torch.save(dict(state_dict=weights), path)
    options = [*SHORT, 'optim_wrapper.optimizer.lr=0']
    status, error = run('train.py', SEGMENTOR, '--load-from', path, '--cfg-options', *options)
    assert status == 2
    assert '21 classes instead of 4; with --new-classes' in error
    arguments = ['--load-from', path, '--new-classes', '--work-dir', folder / 'run']
    assert run('train.py', SEGMENTOR, *arguments, '--cfg-options', *options) == (0, '')
    trained = torch.load(folder / 'run/iter_1.pth', weights_only=False)['state_dict']
    assert set(trained) == set(weights)
    fresh = {name for name in trained if trained[name].shape != weights[name].shape}
    assert fresh == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
    for name in set(trained) - fresh:
        if 'running' not in name and 'tracked' not in name:
            assert torch.equal(trained[name], weights[name]), name


def test_checkpoint_of_another_model(run, folder):
    torch.save(dict(state_dict=segmentor(channels=32)), folder / 'other.pth')
    arguments = ['--load-from', folder / 'other.pth', '--new-classes']
    status, error = run('train.py', SEGMENTOR, *arguments, '--cfg-options', *SHORT)
    assert status == 2
    assert 'other.pth is of another model' in error


def test_load_from_nothing(run):
    status, error = run('train.py', SEGMENTOR, '--load-from', 'absent.pth')
    assert (status, error) == (2, 'error: checkpoint absent.pth does not exist')
    status, error = run('train.py', SEGMENTOR, '--new-classes', '--cfg-options', *SHORT)
    assert (status, '--load-from' in error) == (2, True)

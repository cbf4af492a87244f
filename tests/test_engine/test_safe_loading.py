"""A checkpoint that would write a file when unpickled, by every way that mmengine loads one."""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader, _load_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from mmlab_inline.engine import use_safe_loading
from mmlab_inline.utils import CheckpointError, UnsafeCheckpointError

COMMAND = f'{os.system.__module__}.system'


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.marker}',)


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, *inputs: Tensor, mode: str) -> dict[str, Tensor]:
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


@pytest.fixture
def safe(monkeypatch):
    """Safe loading, after the test whatever was before."""
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', CheckpointLoader.load_checkpoint)
    use_safe_loading()


@pytest.fixture
def marker(tmp_path):
    return tmp_path / 'marker'


@pytest.fixture
def evil(tmp_path, marker):
    """The checkpoint of a run, with an attack beside the weights."""
    path = tmp_path / 'evil.pth'
    content = dict(
        state_dict=Model().state_dict(),
        meta=dict(epoch=0, iter=0),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
        attack=Evil(marker),
    )
    torch.save(content, path)
    return str(path)


def build_runner(folder: Path, path: str, resume: bool, hooks: list[dict] | None = None) -> Runner:
    return Runner(
        model=Model(),
        work_dir=str(folder / 'run'),
        train_dataloader=dict(
            dataset=[torch.ones(2)] * 4, sampler=dict(type='DefaultSampler'), batch_size=2
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks,
        load_from=path,
        resume=resume,
        experiment_name=folder.name,
        cfg=Config(dict(train_cfg=dict(max_epochs=1))),
    )


def init_module(path: str, prefix: str | None = None) -> None:
    module = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path, prefix=prefix))
    module.layer = nn.Linear(2, 3)
    module.init_weights()


WAYS = {
    'resume': lambda path, folder: build_runner(folder, path, resume=True).train(),
    'load_from': lambda path, folder: build_runner(folder, path, resume=False).train(),
    'ema': lambda path, folder: build_runner(folder, path, True, [dict(type='EMAHook')]).train(),
    'init_cfg': lambda path, folder: init_module(path),
    'init_cfg with prefix': lambda path, folder: init_module(path, 'layer'),
    'load_checkpoint': lambda path, folder: load_checkpoint(Model(), path),
    'hooks': lambda path, folder: _load_checkpoint(path),
}


@pytest.mark.parametrize('way', WAYS)
def test_evil_file_is_refused(way, safe, evil, marker, tmp_path):
    with pytest.raises(UnsafeCheckpointError) as info:
        WAYS[way](evil, tmp_path)
    assert COMMAND in str(info.value)
    assert evil in str(info.value)
    assert not marker.exists()


def test_the_attack_would_work(evil, marker):
    """Otherwise the test above would prove nothing."""
    torch.load(evil, weights_only=False)
    assert marker.exists()


def test_the_variable_allows_it(safe, evil, marker, tmp_path, monkeypatch):
    monkeypatch.setenv('MMLAB_INLINE_UNSAFE_CHECKPOINTS', '1')
    with pytest.warns(UserWarning, match=COMMAND):
        WAYS['load_from'](evil, tmp_path)
    assert marker.exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a server of the folder, and an empty cache of downloads."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_evil_file_from_a_url_is_refused(safe, evil, marker, server, tmp_path):
    with pytest.raises(UnsafeCheckpointError, match=COMMAND):
        WAYS['init_cfg'](f'{server}/evil.pth', tmp_path)
    assert not marker.exists()


def test_good_file_from_a_url_is_loaded(safe, server, tmp_path):
    source, target = Model(), Model()
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'good.pth')
    load_checkpoint(target, f'{server}/good.pth', map_location='cpu')
    assert torch.equal(source.layer.weight, target.layer.weight)


def test_a_run_goes_on_where_it_was(safe, tmp_path):
    first = build_runner(tmp_path, None, resume=False)
    first.train()
    path = first.message_hub.get_info('last_ckpt')
    history = first.message_hub.get_scalar('train/loss')
    second = build_runner(tmp_path, path, resume=True)
    second.message_hub.log_scalars.clear()
    second.train()  # already at its end
    assert second.epoch == 1
    for name, value in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value)
    resumed = second.message_hub.get_scalar('train/loss')
    assert type(resumed) is HistoryBuffer
    assert resumed.data[0].tolist() == history.data[0].tolist()
    assert resumed.mean() == history.mean()


def test_safetensors(safe, tmp_path):
    source, target = Model(), Model()
    save_file(source.state_dict(), tmp_path / 'a.safetensors')
    load_checkpoint(target, str(tmp_path / 'a.safetensors'))
    assert torch.equal(source.layer.weight, target.layer.weight)


def test_torn_file(safe, evil):
    Path(evil).write_bytes(Path(evil).read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r'evil\.pth is no checkpoint, or a torn one'):
        _load_checkpoint(evil)


def test_torch_load_itself_stays(safe, evil):
    original = torch.load
    with pytest.raises(UnsafeCheckpointError):
        _load_checkpoint(evil)
    assert torch.load is original


def test_twice_is_as_good_as_once(safe, evil):
    use_safe_loading()
    with pytest.raises(UnsafeCheckpointError):
        _load_checkpoint(evil)


@pytest.mark.parametrize('tool', sorted(Path(__file__).parents[2].glob('tools/**/*.py')), ids=str)
def test_every_tool_that_may_load_a_checkpoint_is_safe(tool):
    code = tool.read_text()
    loaders = ('Runner', 'Inferencer', 'init_detector', 'init_model', 'load_checkpoint')
    if any(f'import {name}' in code or f', {name}' in code for name in loaders):
        assert 'use_safe_loading()' in code

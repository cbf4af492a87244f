"""What the tools say of ops that are not served, and of compiled ones that hide those that are."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torchvision

from mmlab_inline.engine.model import _say_ops_without_cuda, errors_of_build
from mmlab_inline.inference import recorded
from mmlab_inline.utils import exit_on_user_error


def test_op_that_is_not_served_is_one_line(ext, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        ext.carafe_forward(torch.rand(1))
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith('error: carafe_forward of mmcv.ops needs a compiled mmcv')
    assert printed.count('\n') == 1
    monkeypatch.setenv('MMLAB_INLINE_TRACEBACK', '1')
    with pytest.raises(NotImplementedError), exit_on_user_error():
        ext.carafe_forward(torch.rand(1))


def test_op_that_is_not_served_stops_at_the_first_image(ext):
    """It would fail at each of them."""
    failures = {}
    what = '1.png', 'cannot be predicted'
    with pytest.raises(NotImplementedError, match='carafe'), recorded(failures, *what):
        ext.carafe_forward(torch.rand(1))
    with recorded(failures, *what):
        raise NotImplementedError('mine')
    assert failures == {'1.png': 'cannot be predicted: NotImplementedError: mine'}


def test_what_else_is_not_implemented_is_no_mistake_of_the_users():
    with pytest.raises(NotImplementedError, match='mine'), exit_on_user_error():
        raise NotImplementedError('mine')


@pytest.fixture(autouse=True)
def say_anew():
    _say_ops_without_cuda.cache_clear()
    yield
    _say_ops_without_cuda.cache_clear()


@pytest.mark.parametrize(
    ('gpu', 'file', 'cuda', 'said'),
    [
        (True, '/env/mmcv/_ext.so', 'not available', 'compiled for the CPU only, .*; rm {file}'),
        (True, '/env/mmcv/_ext.so', '13.0', ''),
        (True, '/env/mmcv/_ext.py', '13.0', ''),
        (True, '/env/mmcv/_ext.py', 'not available', 'pip install torch torchvision'),
        (False, '/env/mmcv/_ext.so', 'not available', ''),
    ],
)
def test_ops_without_cuda_are_said_once(monkeypatch, capsys, gpu, file, cuda, said):
    ops = SimpleNamespace(__file__=file, get_compiling_cuda_version=lambda: cuda)
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ops)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    for _ in range(2):
        with errors_of_build():
            pass
    printed = capsys.readouterr().err
    assert printed.count('\n') == bool(said)
    assert re.search(f'{said.format(file=file)}$', printed)


def test_torchvision_for_the_cpu_is_said(ext, monkeypatch, capsys):
    """Its builds for the CPU have no `torchvision.version.cuda` at all."""
    monkeypatch.setitem(sys.modules, 'mmcv._ext', ext)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.delattr(torchvision.version, 'cuda', raising=False)
    with errors_of_build():
        pass
    assert capsys.readouterr().err.startswith('torch has CUDA, torchvision has not; ')


def test_nothing_is_said_where_mmcv_is_not_imported(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with errors_of_build():
        pass
    assert not capsys.readouterr().err

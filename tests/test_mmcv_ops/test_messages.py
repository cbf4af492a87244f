"""What the tools say of ops that are not served, and of compiled ones that hide those that are."""

import re
import sys
from types import SimpleNamespace

import pytest
import torch

from mmlab_inline.engine.model import _say_ops_without_cuda, errors_of_build
from mmlab_inline.utils import exit_on_user_error


def test_op_that_is_not_served_is_one_line(ext, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        ext.carafe_forward(torch.rand(1))
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith('error: carafe_forward of mmcv.ops needs') and 'pip' in printed
    assert printed.count('\n') == 1
    monkeypatch.setenv('MMLAB_INLINE_TRACEBACK', '1')
    with pytest.raises(NotImplementedError), exit_on_user_error():
        ext.carafe_forward(torch.rand(1))


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
        (True, '/env/mmcv/_ext.py', 'not available', 'force-reinstall torch torchvision'),
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


def test_nothing_is_said_where_mmcv_is_not_imported(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, 'mmcv._ext', raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with errors_of_build():
        pass
    assert not capsys.readouterr().err

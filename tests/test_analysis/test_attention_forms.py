"""The report's row on the attention, with GPUs that are none."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from mmlab_inline.analysis import attention_forms


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_name', 'H{}00'.format)


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert attention_forms.forms_by_device() == {'cpu': 'banded'}


def test_each_gpu_has_its_own(two_gpus, monkeypatch):
    def has_kernels(tokens):
        if tokens.device.index == 1:
            warnings.warn('no compiler', stacklevel=1)
        return tokens.device.index == 0

    def tokens(*shape, device):
        return SimpleNamespace(device=torch.device(device), dtype=torch.float32)

    monkeypatch.setattr(attention_forms, 'triton_is_available', has_kernels)
    monkeypatch.setattr(torch, 'zeros', tokens)
    assert attention_forms.forms_by_device() == {
        'cpu': 'banded',
        'cuda:0 H000': 'fused (Triton kernels) on large maps',
        'cuda:1 H100': 'fast (plain PyTorch); no compiler',
    }


def test_gpu_that_does_not_work(two_gpus, monkeypatch):
    def tokens(*shape, device):
        if device != 'cpu':
            raise RuntimeError('CUDA error: all devices are busy\nand more')
        return torch.ones(shape)

    monkeypatch.setattr(torch, 'zeros', tokens)
    said = 'fails: CUDA error: all devices are busy'
    assert attention_forms.forms_by_device() == {'cpu': 'banded', 'cuda:0': said, 'cuda:1': said}

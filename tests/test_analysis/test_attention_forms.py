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


ON_CPU = 'in float32 banded; in half types fast (plain PyTorch)'


@pytest.fixture
def kernels(two_gpus, monkeypatch):
    """Of the first GPU alone."""

    def has_kernels(tokens):
        if tokens.device.index == 1:
            warnings.warn('no compiler', stacklevel=1)
        return tokens.device.index == 0

    def tokens(*shape, dtype, device):
        return SimpleNamespace(device=torch.device(device), dtype=dtype)

    monkeypatch.setattr(attention_forms, 'triton_is_available', has_kernels)
    monkeypatch.setattr(torch, 'zeros', tokens)


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert attention_forms.forms_by_device() == {'cpu': ON_CPU}


def test_each_gpu_has_its_own(kernels):
    fused, fast = 'fused (Triton kernels)', 'fast (plain PyTorch)'
    assert attention_forms.forms_by_device() == {
        'cpu': ON_CPU,
        'cuda:0 H000': (
            f'in float32 {fused} from 3 million values on, else linear; '
            f'in half types {fused} from 12 million values on, else linear'
        ),
        'cuda:1 H100': (
            f'in float32 {fast} from 3 million values on, else linear; '
            'in half types linear; no compiler'
        ),
    }


def test_maps_of_all_sizes(kernels, monkeypatch):
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    form = 'in float32 fused (Triton kernels); in half types fused (Triton kernels)'
    assert attention_forms.forms_by_device()['cuda:0 H000'] == form


def test_gpu_that_does_not_work(two_gpus, monkeypatch):
    def tokens(*shape, dtype, device):
        if device != 'cpu':
            raise RuntimeError('CUDA error: all devices are busy\nand more')
        return torch.ones(shape, dtype=dtype)

    monkeypatch.setattr(torch, 'zeros', tokens)
    said = 'fails: CUDA error: all devices are busy'
    assert attention_forms.forms_by_device() == {'cpu': ON_CPU, 'cuda:0': said, 'cuda:1': said}

"""What --amp says is what a run does."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper

from mmlab_inline.engine import enable_amp


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({}, 'float16 autocast with dynamic loss scaling'),
        ({'dtype': 'bfloat16'}, 'bfloat16 autocast with dynamic loss scaling'),
        ({'dtype': None, 'loss_scale': 512.0}, 'float16 autocast with loss_scale=512.0'),
        ({'loss_scale': {'enabled': False}}, "float16 autocast with loss_scale={'enabled': False}"),
    ],
)
def test_precision_of_the_config(settings, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', **settings)))
    assert enable_amp(cfg) == f'mixed precision: {words} on the GPU'
    wrapper = cfg.optim_wrapper.to_dict()
    assert wrapper.pop('type') == 'AmpOptimWrapper'
    assert wrapper == {'loss_scale': 'dynamic', **settings}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    dtype = AmpOptimWrapper(**wrapper, optimizer=optimizer).cast_dtype
    assert str(dtype or torch.float16).removeprefix('torch.') == words.split()[0]

import pytest
import torch
from mmengine.config import Config

from mmlab_inline.engine import start_processes
from mmlab_inline.engine.processes import TIMEOUT, errors_of_other_processes
from mmlab_inline.utils import UserError


@pytest.mark.parametrize(
    ('env_cfg', 'option', 'expected'),
    [
        (None, None, TIMEOUT),
        (None, 5, 5),
        (dict(cudnn_benchmark=True), None, TIMEOUT),
        (dict(dist_cfg=dict(backend='nccl', timeout=7)), None, 7),
        (dict(dist_cfg=dict(backend='nccl', timeout=7)), 5, 5),
    ],
)
def test_timeout_of_option_config_or_default(env_cfg, option, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(launcher='pytorch', **(dict(env_cfg=env_cfg) if env_cfg else {})))
    start_processes(cfg, option)
    assert cfg.env_cfg.pop('dist_cfg').pop('timeout') == expected
    assert cfg.env_cfg == {key: True for key in env_cfg or {} if key != 'dist_cfg'}


def test_one_process_has_no_timeout():
    cfg = Config(dict(launcher='none'))
    start_processes(cfg, 5)
    assert 'env_cfg' not in cfg


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 5000ms', 'for 5 s: it hangs'),
        ('[gloo/transport/tcp/pair.cc:544] Connection closed by peer', 'has ended'),
    ],
)
def test_errors_of_gloo_in_one_line(text, message):
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=5))))
    with pytest.raises(UserError, match=message), errors_of_other_processes(cfg):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match='own mistake'), errors_of_other_processes(cfg):
        raise RuntimeError('own mistake')

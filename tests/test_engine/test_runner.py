import os

import pytest
import torch
from mmengine.model import BaseModel

from mmlab_inline.engine import ShardedStrategy
from mmlab_inline.engine.runner import CheckedRunner


class Model(BaseModel):
    def forward(self):
        return None


def seed_runner(folder):
    runner = CheckedRunner(Model(), str(folder), randomness=dict(seed=1, deterministic=True))
    runner.set_randomness(**runner._randomness_cfg)  # as when it is resumed


def seed_strategy(folder):
    ShardedStrategy(work_dir=str(folder))._set_randomness(seed=1, deterministic=True)


@pytest.fixture
def restored(monkeypatch):
    """These are settings of the whole process."""
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    yield
    os.environ.pop('CUBLAS_WORKSPACE_CONFIG', None)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize('seed', [seed_runner, seed_strategy])
def test_what_has_no_deterministic_algorithm_is_a_warning(seed, tmp_path, restored):
    seed(tmp_path)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    with pytest.warns(UserWarning, match='does not have a deterministic implementation'):
        # One of the few operations that have none on the CPU.
        torch.zeros(2).put_(torch.zeros(2, dtype=torch.long), torch.ones(2))

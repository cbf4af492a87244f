import os

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from mmlab_inline.engine import ShardedStrategy
from mmlab_inline.engine.runner import CheckedRunner
from mmlab_inline.runs import loaders
from mmlab_inline.utils import UserError


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


class Numbers(Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


def build(folder, **settings):
    """A runner with all its parts built, as training does before the first iteration."""
    loader = dict(dataset=Numbers(), batch_size=2, sampler=dict(type='DefaultSampler'))
    loader |= settings.pop('loader', {})
    runner = CheckedRunner(
        Trainable(),
        str(folder),
        train_dataloader=loader,
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1) | settings.pop('train_cfg', {}),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1) | settings.pop('optimizer', {})),
        experiment_name=str(folder),
        default_scope='mmengine',
        **settings,
    )
    runner.train_loop  # noqa: B018
    runner.build_optim_wrapper(runner.optim_wrapper)
    if runner.param_schedulers:
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.build_param_scheduler(runner.param_schedulers)
    runner.call_hook('before_run')
    return runner


class Trainable(Model):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        (dict(train_cfg=dict(val_interval=0)), 'train_cfg.val_interval=0'),
        (dict(train_cfg=dict(max_epochs=0)), 'train_cfg.max_epochs=0'),
        (dict(train_cfg=dict(type='NoLoop')), 'train_cfg does not build: .*NoLoop'),
        (dict(loader=dict(batch_size=0)), 'a dataloader does not build: .*batch_size=0'),
        (dict(loader=dict(sampler=dict(type='NoSampler'))), 'a dataloader .*NoSampler'),
        (dict(loader=dict(pin=True)), 'a dataloader .*pin'),
        (
            dict(optimizer=dict(type='NoOptimizer')),
            'optimizer NoOptimizer is unknown',
        ),
        (dict(optimizer=dict(rate=3)), r'the optimizer \(optim_wrapper\) .*rate'),
        (dict(param_scheduler=dict(type='NoSchedule')), 'param_scheduler .*NoSchedule'),
        (dict(custom_hooks=[dict(type='NoHook')]), 'the hook NoHook does not build'),
        (dict(custom_hooks=[dict(type='EMAHook', rate=3)]), 'a hook does not build: .*rate'),
        (dict(custom_hooks=['EMAHook']), 'the hook EMAHook does not build'),
        (dict(visualizer=dict(type='NoVisualizer')), 'the visualizer .*NoVisualizer'),
        (
            dict(visualizer=dict(type='Visualizer', vis_backends=[dict(type='NoBackend')])),
            'the visualizer .*NoBackend',
        ),
    ],
)
def test_settings_that_do_not_build_are_one_line(settings, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as error:
        build(tmp_path, **settings)
    assert '\n' not in str(error.value)


def test_settings_that_only_contradict_each_other_are_put_right(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(loaders, 'print_log', lambda text, logger: said.append(text))
    loader = dict(num_workers=0, persistent_workers=True, prefetch_factor=4)
    runner = build(tmp_path, loader=loader)
    assert not runner.train_dataloader.persistent_workers
    assert said[0] == 'num_workers is 0, so persistent_workers is left out'
    loader['num_workers'] = 1
    assert CheckedRunner.build_dataloader(
        dict(dataset=Numbers(), batch_size=1, sampler=dict(type='DefaultSampler'), **loader)
    ).persistent_workers


@pytest.mark.parametrize('gpu', [True, False])
def test_images_are_pinned_for_a_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    loader = dict(dataset=Numbers(), batch_size=1, sampler=dict(type='DefaultSampler'))
    assert CheckedRunner.build_dataloader(loader).pin_memory == gpu
    assert not CheckedRunner.build_dataloader({**loader, 'pin_memory': False}).pin_memory
    assert 'pin_memory' not in loader


def test_batches_do_not_wait_for_the_gpu(tmp_path):
    class Sample(BaseDataElement):
        def to(self, *args, **settings):
            copied.append(settings)

    copied = []
    runner = CheckedRunner(Model(), str(tmp_path), experiment_name=str(tmp_path))
    runner.model.data_preprocessor(dict(data_samples=[Sample()]))
    assert copied == [{'non_blocking': True}]

import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from mmlab_inline.engine import use_safe_loading

names = map('run_{}'.format, itertools.count())  # runs of one name share mmengine's message hub


class NoisyData(Dataset):
    """A sample draws from all three global generators; item 7 may be broken."""

    metainfo = {}

    def __init__(self, length=10, broken=False):
        self.length = length
        self.broken = broken
        self.num_loaded = 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.num_loaded += 1
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        value = float('nan') if self.broken and index == 7 else float(index)
        sample = BaseDataElement(metainfo=dict(img_path=f'{index}.png'))
        return dict(inputs=torch.tensor([value, *noise]), data_samples=sample)


class NoisyModel(BaseModel):
    """With dropout and running statistics."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        )

    def forward(self, inputs, data_samples, mode):
        out = self.layers(torch.stack(inputs))
        return dict(loss_a=out.square().mean(), loss_b=out.mean()) if mode == 'loss' else [out]


class ConstantMetric(Evaluator):
    dataset_meta = None

    def __init__(self, values):
        self.values = iter(values)
        self.num_runs = 0

    def process(self, *args, **kwargs):
        pass

    def evaluate(self, size):
        self.num_runs += 1
        return dict(acc=next(self.values))


class Recorder(Hook):
    """What every iteration ended with; may do something at the end of one."""

    priority = 'LOW'  # before checkpoints and the end of the run

    def __init__(self, act=None):
        self.losses = {}
        self.images = {}
        self.act = act

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        hub = runner.message_hub
        smooth = hub.get_scalar('train/loss').mean(5)
        rate = runner.optim_wrapper.get_lr()['lr'][0]
        self.losses[runner.iter] = (float(outputs['loss']), smooth, rate)
        self.images[runner.iter] = [sample.img_path for sample in data_batch['data_samples']]
        if self.act is not None:
            self.act(runner)


@pytest.fixture
def build_run(tmp_path, monkeypatch):
    """Builds a tiny run: 10 samples, batch 2, 3 epochs or 15 iterations; runner and recorder."""
    # As the tools do: mmengine 0.10.7 alone cannot read its own checkpoints.
    monkeypatch.setattr(CheckpointLoader, 'load_checkpoint', CheckpointLoader.load_checkpoint)
    use_safe_loading()

    def build(
        by_epoch=True,
        act=None,
        resume=None,
        work_dir='run',
        seed=3,
        length=3,
        workers=0,
        persistent=False,
        values=(),
        val_interval=1,
        checkpoint=None,
        non_finite='stop',
        accumulate=1,
        broken=False,
        sampler=None,
        batch_size=2,
    ):
        torch.manual_seed(0)
        recorder = Recorder(act)
        kind = 'Epoch' if by_epoch else 'Iter'
        length = dict(max_epochs=length) if by_epoch else dict(max_iters=5 * length)
        loader = dict(
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=persistent,
            dataset=NoisyData(broken=broken),
        )
        sampler = sampler or ('DefaultSampler' if by_epoch else 'InfiniteSampler')
        val = {}
        if values:
            val = dict(
                val_cfg=dict(),
                val_evaluator=ConstantMetric(values),
                val_dataloader={**loader, 'sampler': dict(type='DefaultSampler', shuffle=False)},
            )
        checkpoint = dict(by_epoch=by_epoch, interval=1, **(checkpoint or {}))
        runner = Runner(
            model=NoisyModel(),
            work_dir=str(tmp_path / work_dir),
            train_dataloader={**loader, 'sampler': dict(type=sampler, shuffle=True)},
            train_cfg=dict(
                type=f'mmlab_inline.Resumable{kind}BasedTrainLoop',
                val_interval=val_interval,
                **length,
            ),
            optim_wrapper=dict(
                optimizer=dict(type='AdamW', lr=0.1), accumulative_counts=accumulate
            ),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=7),
                dict(type='MultiStepLR', by_epoch=by_epoch, milestones=[2], gamma=0.5),
            ],
            default_hooks=dict(
                checkpoint=dict(type='mmlab_inline.AtomicCheckpointHook', **checkpoint),
                termination=dict(type='mmlab_inline.TerminationHook'),
                non_finite_loss=dict(
                    type='mmlab_inline.NonFiniteLossHook', on_non_finite=non_finite
                ),
            ),
            custom_hooks=[recorder],
            load_from=None if resume is None else str(resume),
            resume=resume is not None,
            randomness=dict(seed=seed),
            experiment_name=next(names),
            default_scope='mmengine',
            log_level='WARNING',
            **val,
        )
        return runner, recorder

    return build

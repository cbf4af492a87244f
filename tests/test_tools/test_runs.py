"""The commands a user types, on drawn shapes: train, resume, test, also by mmdet's and mmseg's own
scripts."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmlab_inline.datasets import write_dataset

mmdet = pytest.importorskip('mmdet')
mmseg = pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
DEMO = {
    'mmdet': ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py',
    'mmseg': ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py',
}
CLASSES = ('circle', 'square', 'triangle')
# A run of three iterations on 24 drawings, or of three on demand.
SHORT = {
    'mmdet': [
        'train_dataloader.dataset.indices=24',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.logger.interval=1',
        'val_dataloader.dataset.indices=2',
    ],
    'mmseg': [
        'train_cfg.max_iters=3',
        'train_cfg.val_interval=3',
        'default_hooks.checkpoint.interval=3',
        'default_hooks.logger.interval=1',
        'val_dataloader.dataset.indices=2',
    ],
}
LAST = {'mmdet': 'epoch_1.pth', 'mmseg': 'iter_3.pth'}


def run(*command, cwd, code=0, **variables):
    """Run a Python script; what it printed."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **variables}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    write_dataset(folder / 'work_dirs/demo/data', 24, 4, classes=CLASSES)
    return folder


@pytest.fixture(scope='module', params=['mmdet', 'mmseg'])
def trained(request, folder):
    """Task, and what tools/train.py printed; the run lies below work_dirs/TASK."""
    task = request.param
    printed = run(
        ROOT / 'tools/train.py',
        DEMO[task],
        '--work-dir',
        f'work_dirs/{task}',
        '--seed',
        '1',
        '--accumulate',
        '2',
        '--auto-scale-lr',
        '--cfg-options',
        *SHORT[task],
        cwd=folder,
    )
    return task, printed


def test_train_says_what_is_next(trained, folder):
    task, printed = trained
    checkpoint = folder / 'work_dirs' / task / LAST[task]
    assert checkpoint.is_file()
    assert f'tools/test.py {DEMO[task]} {checkpoint}' in printed

"""The commands a user types, on drawn shapes: train, resume, test, also by mmdet's and mmseg's own
scripts."""

import importlib.util
import json
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmlab_inline.datasets import write_dataset
from mmlab_inline.report import read_record

mmdet = pytest.importorskip('mmdet')
mmseg = pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
DEMO = {
    'mmdet': ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py',
    'mmseg': ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py',
}
CLASSES = ('circle', 'ring', 'cross')
HAS_TENSORBOARD = importlib.util.find_spec('tensorboard') is not None
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
        '--deterministic',
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
    # Both rules, by their rates.
    assert re.search(r': \S+, linear in the images .* square root, \S+\)', printed)


@pytest.mark.parametrize(
    ('given', 'arguments', 'expected'),
    [
        (None, (None, False), dict(seed=None)),
        (dict(seed=0), (None, True), dict(seed=0, deterministic=True)),
        (dict(deterministic=True), (5, False), dict(seed=5, deterministic=True)),
        (dict(seed=0, diff_rank_seed=True), (5, False), dict(seed=5, diff_rank_seed=True)),
    ],
)
def test_options_leave_the_rest_of_the_randomness(given, arguments, expected):
    cfg = Config(dict(randomness=given) if given else {})
    runpy.run_path(str(ROOT / 'tools/train.py'))['set_randomness'](cfg, *arguments)
    assert cfg.randomness == expected


def test_train_scales_the_rate_by_the_whole_step(trained):
    # 8 images * 2 accumulated batches are the recipe's 16.
    assert 'Scaling the original LR by 1.0' in trained[1]


def test_test_writes_metrics_predictions_and_pictures(trained, folder):
    task, _ = trained
    out = {'mmdet': 'predictions.pkl', 'mmseg': 'label_maps'}[task]
    run(
        ROOT / 'tools/test.py',
        DEMO[task],
        f'work_dirs/{task}/{LAST[task]}',
        '--work-dir',
        f'work_dirs/{task}',
        '--out',
        out,
        '--show-dir',
        f'{task}_pictures',
        cwd=folder,
    )
    metrics = json.loads((folder / 'work_dirs' / task / 'metrics.json').read_text())
    if task == 'mmdet':
        assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
        assert len(pickle.loads((folder / out).read_bytes())) == 4
    else:
        assert 0 <= metrics['mIoU'] <= 100
        assert len(list((folder / out).glob('*.png'))) == 4
    pictures = sorted((folder / f'{task}_pictures').rglob('*.png'))
    assert len(pictures) == 4
    # Truth and prediction side by side.
    assert Image.open(pictures[0]).size == (320, 160)
    report = json.loads((folder / 'work_dirs' / task / 'report.json').read_text())
    assert report['metrics'] == pytest.approx(
        {name: value for name, value in metrics.items() if value != -1}
    )
    assert f'work_dirs/{task}/{LAST[task]}' in report['about'][1]
    assert report['cost']['params'] > 1e6
    assert report['cost']['images_per_second'] > 0


def test_resume_continues(trained, folder):
    task, _ = trained
    longer = {'mmdet': 'train_cfg.max_epochs=2', 'mmseg': 'train_cfg.max_iters=5'}[task]
    printed = run(
        ROOT / 'tools/train.py',
        DEMO[task],
        '--work-dir',
        f'work_dirs/{task}',
        '--resume',
        '--cfg-options',
        *SHORT[task],
        longer,
        cwd=folder,
    )
    assert 'resumed' in printed
    first = {'mmdet': 'Epoch(train) [2][1/3]', 'mmseg': 'Iter(train) [4/5]'}[task]
    again = {'mmdet': 'Epoch(train) [1][1/3]', 'mmseg': 'Iter(train) [1/5]'}[task]
    printed = ' '.join(printed.split())
    assert first in printed
    assert again not in printed
    work_dir = folder / 'work_dirs' / task
    last = {'mmdet': 6, 'mmseg': 5}[task]
    assert read_record(work_dir).series('loss')[0] == list(range(1, last + 1))
    assert Image.open(work_dir / 'curves.png').width > 800
    about = json.loads((work_dir / 'report.json').read_text())['about']
    assert f'after {last} iterations' in about[1]
    # Every start wrote its scalars into the one folder.
    assert len(list((work_dir / 'tensorboard').iterdir())) == (2 if HAS_TENSORBOARD else 0)


def test_a_second_run_leaves_the_first_alone(trained, folder):
    task, _ = trained
    work_dir = folder / 'work_dirs' / task
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob('*')}
    printed = run(
        ROOT / 'tools/train.py', DEMO[task], '--work-dir', f'work_dirs/{task}', cwd=folder, code=2
    )
    assert f'error: work_dirs/{task} holds a run already: --resume' in printed
    assert {path: path.stat().st_mtime_ns for path in work_dir.rglob('*')} == before


def test_interrupt_in_a_terminal_saves_the_state(folder):
    command = [ROOT / 'tools/train.py', DEMO['mmseg'], '--work-dir', 'work_dirs/stopped']
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if 'Iter(train)' in line and 'Ctrl-C' not in ''.join(lines):
                process.send_signal(signal.SIGINT)
    printed = ''.join(lines)
    assert process.returncode == 130, printed
    assert 'Traceback' not in printed
    assert len(lines) < 30  # no dumps
    assert (folder / 'work_dirs/stopped/interrupted.pth').is_file()
    assert f'continue with python {command[0]}' in lines[-1] and '--resume' in lines[-1]


def test_training_in_mixed_precision(folder):
    arguments = ['--work-dir', 'work_dirs/amp', '--amp', '--cfg-options', *SHORT['mmdet']]
    printed = run(ROOT / 'tools/train.py', DEMO['mmdet'], *arguments, cwd=folder)
    assert 'bfloat16 autocast on the CPU' in printed
    assert 'nan' not in printed.split('(train)')[-1].splitlines()[0]


def test_testing_in_mixed_precision(trained, folder):
    task, _ = trained
    checkpoint = (folder / f'work_dirs/{task}/last_checkpoint').read_text()
    arguments = [checkpoint, '--work-dir', f'work_dirs/amp_{task}', '--amp']
    if task == 'mmseg':  # mmdet merges no masks
        arguments.append('--tta')
    printed = run(ROOT / 'tools/test.py', DEMO[task], *arguments, cwd=folder)
    assert 'bfloat16 autocast on the CPU' in printed
    report = json.loads((folder / f'work_dirs/amp_{task}/report.json').read_text())
    assert 'bf16 autocast' in report['cost']['machine']


PUBLISHED = {
    'mmdet': (
        'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py',
        'detection/inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py',
    ),
    'mmseg': (
        'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py',
        'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py',
    ),
}
# Only data, sizes and lengths are swapped: model, schedule and runtime stay the published ones.
SMALL = {
    'mmdet': """
data = dict(data_root='DATA/coco/', indices=2, metainfo=dict(classes=CLASSES))
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(96, 96), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
loader = dict(num_workers=0, persistent_workers=False, dataset=dict(**data, pipeline=load))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(ann_file='DATA/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
default_hooks = dict(checkpoint=dict(save_best=None))
# An untrained head of 80 classes names some that the drawings do not have.
model = dict(test_cfg=dict(rcnn=dict(score_thr=1.1)))
""",
    'mmseg': """
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackSegInputs'),
]
loader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type='BaseSegDataset',
        data_root='DATA/ade/ADEChallengeData2016',
        img_suffix='.png',
        reduce_zero_label=True,
        indices=2,
        metainfo=dict(classes=('background', *CLASSES), palette=[[0, 0, 0]] * 4),
        pipeline=load,
    ),
)
model = dict(data_preprocessor=dict(size=(64, 64)))
train_dataloader = loader
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(**loader['dataset'])
)
val_dataloader['dataset']['pipeline'] = [load[0], load[2], load[1], load[3]]
test_dataloader = val_dataloader
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1, save_best=None))
""",
}


@pytest.mark.long
@pytest.mark.parametrize('task', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('number', [0, 1])
def test_foreign_scripts_take_published_configs(task, number, folder):
    """mmdet's and mmseg's own scripts, unchanged: an iteration of training and an evaluation."""
    package = {'mmdet': mmdet, 'mmseg': mmseg}[task]
    scripts = Path(package.__path__[0]) / '.mim/tools'
    config = folder / f'{task}_{number}.py'
    small = SMALL[task].replace('DATA', str(folder / 'work_dirs/demo/data'))
    config.write_text(
        f"_base_ = '{ROOT / 'configs' / PUBLISHED[task][number]}'\nCLASSES = {CLASSES}\n{small}"
    )
    work_dir = f'work_dirs/{task}_foreign_{number}'
    scratch = ['--cfg-options', 'model.backbone.init_cfg=None']
    run(scripts / 'train.py', config, '--work-dir', work_dir, *scratch, cwd=folder)
    last = {'mmdet': 'epoch_1.pth', 'mmseg': 'iter_1.pth'}[task]
    printed = run(
        scripts / 'test.py', config, f'{work_dir}/{last}', '--work-dir', work_dir, cwd=folder
    )
    assert '(test) [2/2]' in printed  # after one iteration a detector may find nothing to score

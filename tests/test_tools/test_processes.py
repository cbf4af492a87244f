"""Several processes on the CPU do what one does, and end together."""

import json
import multiprocessing
import os
import pickle
import re
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmlab_inline.datasets import write_dataset
from mmlab_inline.engine import find_checkpoint
from mmlab_inline.utils import load_checkpoint

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
CLASSES = ('circle', 'ring', 'cross')
SEGMENTOR = """
_base_ = 'ROOT/configs/demo/sem-fpn_inline-swin-demo_shapes.py'
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch=dict(embed_dims=8, num_heads=(1, 2, 4, 4))),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16),
)
data = dict(data_root='DATA/ade/ADEChallengeData2016')
train_dataloader = dict(batch_size=2, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=6))
"""
# Nothing in it depends on which process an image is in. All drawings have one size and the loss
# is a mean over all their pixels, so that the mean over two processes is that over all images.
EXACT = """
model['decode_head']['norm_cfg'] = dict(type='GN', num_groups=4)
train_dataloader['dataset'] = dict(
    **data,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', reduce_zero_label=True),
        dict(type='PackSegInputs'),
    ],
)
train_cfg = dict(max_iters=6, val_interval=6)
param_scheduler = []  # the whole rate from the start
# Where a gradient is next to nothing, AdamW would turn its rounding error into a step.
optim_wrapper = dict(optimizer=dict(eps=1e-4))
custom_hooks = [dict(type='LossRecorder')]
"""

# Any five boxes are as good as others here.
DETECTOR = """
_base_ = 'ROOT/configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'
model = dict(
    backbone=dict(
        arch=dict(embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 4))
    ),
    neck=dict(in_channels=[8, 16, 24, 32]),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
data = dict(data_root='DATA/coco/')
train_dataloader = dict(batch_size=4, dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='DATA/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
"""
COCO = """
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
data = dict(
    data_root='DATA/coco/', metainfo=dict(classes=('circle', 'ring', 'cross')), pipeline=load
)
loader = dict(num_workers=0, persistent_workers=False, dataset=data)
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
val_evaluator = dict(ann_file='DATA/coco/annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_best=None))
custom_hooks = [dict(type='LossRecorder')]
"""
ADE = """
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
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
        metainfo=dict(
            classes=('background', 'circle', 'ring', 'cross'), palette=[[0, 0, 0]] * 4
        ),
        pipeline=load,
    ),
)
model['data_preprocessor'] = dict(size=(64, 64))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
train_cfg = dict(max_iters=3, val_interval=3)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3, save_best=None))
custom_hooks = [dict(type='LossRecorder')]
"""
PVT = """
arch = dict(
    _delete_=True,
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 1, 1),
    num_heads=(1, 2, 4, 4),
    mlp_ratios=(2, 2, 2, 2),
)
model = dict(backbone=dict(arch=arch), neck=dict(in_channels=[8, 16, 24, 32]))
"""
SWIN = """
arch = dict(
    _delete_=True, embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 4), mlp_ratios=2
)
model = dict(backbone=dict(arch=arch), neck=dict(in_channels=[8, 16, 32, 64]))
"""
UPERNET = """
model = dict(
    backbone=dict(arch=arch),
    decode_head=dict(in_channels=[8, 16, 32, 64]),
    auxiliary_head=dict(in_channels=32),
)
"""
TWO_HEADS = ('roi_head.bbox_head', 'roi_head.mask_head')
CASCADE_HEADS = (*(f'roi_head.bbox_head.{stage}' for stage in range(3)), 'roi_head.mask_head')
# Published config, its changes, heads that are told the number of classes.
FAMILIES = {
    'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco': (PVT + COCO, TWO_HEADS),
    'detection/inline_pvt/retinanet_inline-pvt-t_fpn_1x_coco': (PVT + COCO, ('bbox_head',)),
    'detection/inline_swin/mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco': (SWIN + COCO, TWO_HEADS),
    'detection/inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco': (
        SWIN + COCO,
        CASCADE_HEADS,
    ),
    'segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512': (
        PVT + ADE,
        ('decode_head',),
    ),
    'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512': (
        SWIN + UPERNET + ADE,
        ('decode_head', 'auxiliary_head'),
    ),
}


class LossRecorder(Hook):
    """Writes the losses of this process, each as a line, and at the end the sum of its weights."""

    def after_train(self, runner):
        total = sum(float(weight.double().sum()) for weight in runner.model.parameters())
        Path(runner.work_dir, f'weights_{get_rank()}.txt').write_text(str(total))

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        with Path(runner.work_dir, f'losses_{get_rank()}.txt').open('a') as file:
            print(float(outputs['loss']), file=file)


class DiskFiller(Hook):
    """After the fourth iteration no file can grow beyond what logs need."""

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        if runner.iter == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LOG_SIZE, LOG_SIZE))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """12 images to train on, 5 to evaluate: neither 2 nor 3 processes get equal shares."""
    folder = tmp_path_factory.mktemp('processes')
    write_dataset(folder / 'data', 12, 5, size=64, classes=CLASSES)
    return folder


@pytest.fixture(scope='module')
def write_config(folder):
    def write(name, text):
        path = folder / f'{name}.py'
        path.write_text(text.replace('ROOT', str(ROOT)).replace('DATA', str(folder / 'data')))
        return path

    return write


@pytest.fixture(scope='module')
def launch(folder):
    """Runs a tool in several processes, forked from one that has imported everything."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.apis', 'mmseg.apis', 'mmlab_inline.engine'])

    def run(count, tool, *arguments, status=0):
        if count > 1:
            arguments = (*arguments, '--launcher', 'pytorch')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        printed = [folder / f'printed_{rank}.txt' for rank in range(count)]
        processes = [
            context.Process(
                target=run_tool,
                args=(rank, count, port, printed[rank], str(ROOT / 'tools' / tool), arguments),
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        texts = [path.read_text() for path in printed]
        codes = [process.exitcode for process in processes]
        assert codes == [status] * count, '\n'.join(text[-3000:] for text in texts)
        return texts

    return run


def run_tool(rank, count, port, printed, tool, arguments):
    """What torchrun does for a worker."""
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    HOOKS.register_module(module=LossRecorder)
    HOOKS.register_module(module=DiskFiller)
    os.environ |= dict(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
        OMP_NUM_THREADS='1',
        CUDA_VISIBLE_DEVICES='',
    )
    os.chdir(printed.parent)
    sys.argv = [tool, *map(str, arguments)]
    runpy.run_path(tool, run_name='__main__')


@pytest.fixture(scope='module')
def whole(launch, write_config, folder):
    """Work folder of one process with batches of 4."""
    config, work_dir = write_config('exact', SEGMENTOR + EXACT), folder / 'whole'
    seed = ('--seed', '3', '--cfg-options', 'train_dataloader.batch_size=4')
    launch(1, 'train.py', config, '--work-dir', work_dir, *seed)
    return work_dir


def assert_trained_as(whole, shared):
    """The mean of the losses, and the weights, to 1e-5."""
    expected, *parts = (
        torch.tensor([float(line) for line in path.read_text().splitlines()])
        for path in (whole / 'losses_0.txt', shared / 'losses_0.txt', shared / 'losses_1.txt')
    )
    assert len(expected) == 6
    assert (parts[0] - parts[1]).abs().min() > 1e-4  # they had other images
    torch.testing.assert_close(sum(parts) / 2, expected, rtol=0, atol=1e-5)
    print('losses', (sum(parts) / 2 - expected).abs().max().item())
    one, two = (weights(path / 'iter_6.pth') for path in (whole, shared))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    print('weights', max((two[name] - value).abs().max().item() for name, value in one.items()))


def weights(path):
    return load_checkpoint(path)['state_dict']


def test_two_processes_train_as_one(whole, launch, folder):
    work_dir = folder / 'shared'
    launch(2, 'train.py', folder / 'exact.py', '--work-dir', work_dir, '--seed', '3')
    assert_trained_as(whole, work_dir)


def test_evaluation_is_the_same_in_any_number_of_processes(whole, launch, folder):
    metrics, reports, pictures = [], [], []
    for count in (1, 2, 3):
        work_dir = folder / f'test_{count}'
        checkpoint = whole / 'iter_6.pth'
        launch(count, 'test.py', folder / 'exact.py', checkpoint, '--work-dir', work_dir)
        metrics.append(json.loads((work_dir / 'metrics.json').read_text()))
        report = json.loads((work_dir / 'report.json').read_text())
        assert report['cost'].get('processes') == count
        reports.append([report['per_class'], report['curves']])
        pictures.append(
            set(re.findall(r'data:image/jpeg[^"]*', (work_dir / 'report.html').read_text()))
        )
    assert metrics[0]['mIoU'] > 0
    assert metrics[1] == metrics[2] == metrics[0]
    assert reports[1] == reports[2] == reports[0]
    assert pictures[1] == pictures[2] == pictures[0] != set()


@pytest.mark.long
def test_detections_are_the_same_in_any_number_of_processes(launch, write_config, folder):
    config = write_config('detector', DETECTOR)
    launch(1, 'train.py', config, '--work-dir', folder / 'detector', '--seed', '3')
    expected, reports = None, []
    for count in (1, 2, 3):
        out = folder / f'detections_{count}.pkl'
        checkpoint = folder / 'detector/epoch_1.pth'
        launch(count, 'test.py', config, checkpoint, '--work-dir', folder / 'test', '--out', out)
        report = json.loads((folder / 'test/report.json').read_text())
        reports.append([report['per_class'], report['curves']])
        found = pickle.loads(out.read_bytes())
        assert [len(sample['pred_instances']['scores']) for sample in found] == [5] * 5
        expected = expected or found
        assert [sample['img_id'] for sample in found] == [sample['img_id'] for sample in expected]
        for sample, wanted in zip(found, expected, strict=True):
            for name, value in wanted['pred_instances'].items():
                other = sample['pred_instances'][name]
                assert torch.equal(other, value) if torch.is_tensor(value) else other == value
    assert reports[1] == reports[2] == reports[0]


@pytest.mark.long
@pytest.mark.parametrize('path', FAMILIES)
def test_every_family_trains_and_evaluates(path, launch, write_config, folder):
    """Two processes, the published configs but for width, data and length."""
    name = path.rsplit('/')[-1]
    changes, heads = FAMILIES[path]
    config = write_config(name, f"_base_ = 'ROOT/configs/{path}.py'\n" + changes)
    num_classes = 4 if 'segmentation' in path else 3
    options = [f'model.{head}.num_classes={num_classes}' for head in heads]
    arguments = ('--work-dir', folder / name, '--from-scratch', '--seed', '3')
    first, second = launch(2, 'train.py', config, *arguments, '--cfg-options', *options)
    assert len((folder / name / 'losses_0.txt').read_text().split()) == 3
    assert re.search(r'\(val\) (\[1\])?\[3/3\]', first)
    assert ('SyncBN needs GPUs' in first) == ('segmentation' in path or 'cascade' in path)
    assert 'SyncBN' not in second
    one, two = ((folder / name / f'weights_{rank}.txt').read_text() for rank in range(2))
    assert one == two


FSDP = """
runner_type = 'mmlab_inline.StrategyRunner'
strategy = dict(type='mmlab_inline.ShardedStrategy')
default_hooks['checkpoint'] = dict(interval=3, max_keep_ckpts=2)
"""
FULL = """
custom_hooks = [dict(type='DiskFiller')]
default_hooks['checkpoint'] = dict(interval=3)
"""
LOG_SIZE = 100_000


@pytest.mark.long
def test_fsdp_trains_and_resumes_as_one_process(whole, launch, write_config, folder):
    config = write_config('fsdp', SEGMENTOR + EXACT + FSDP)
    shared, resumed, loaded = (folder / name for name in ('fsdp', 'fsdp_resumed', 'fsdp_loaded'))
    launch(2, 'train.py', config, '--work-dir', shared, '--seed', '3')
    assert_trained_as(whole, shared)
    assert not list(shared.glob('.*.part'))

    # From before and from after an evaluation.
    launch(2, 'train.py', config, '--work-dir', resumed, '--resume', shared / 'iter_3.pth')
    expected = weights(shared / 'iter_6.pth')
    torch.testing.assert_close(weights(resumed / 'iter_6.pth'), expected, rtol=0, atol=0)
    longer = ('--cfg-options', 'train_cfg.max_iters=7')
    text, _ = launch(2, 'train.py', config, '--work-dir', resumed, '--resume', *longer)
    before, after = ' '.join(text.split()).split('Iter(train) [7/7]')
    assert '(val)' not in before  # was done
    assert '(val) [3/3]' in after

    still = ('--cfg-options', 'optim_wrapper.optimizer.lr=0')
    path = shared / 'iter_6.pth'
    launch(2, 'train.py', config, '--work-dir', loaded, '--load-from', path, *still)
    torch.testing.assert_close(weights(loaded / 'iter_6.pth'), expected, rtol=0, atol=0)


@pytest.mark.long
@pytest.mark.parametrize('kind', ['ddp', 'fsdp'])
def test_full_disk_ends_the_run(kind, launch, write_config, folder):
    strategy = FSDP if kind == 'fsdp' else ''
    config = write_config(f'full_{kind}', SEGMENTOR + EXACT + strategy + FULL)
    work_dir = folder / f'full_{kind}'
    first, second = launch(2, 'train.py', config, '--work-dir', work_dir, status=2)
    assert first.splitlines()[-1] == (
        f'error: {work_dir}/iter_6.pth cannot be written: File too large; what was saved before is '
        'intact, put that right and continue with --resume'
    )
    assert second.splitlines()[-1].startswith('error: another process has ended')
    assert 'Traceback' not in first + second
    assert find_checkpoint(work_dir) == work_dir / 'iter_3.pth'
    assert (work_dir / 'iter_3.pth').stat().st_size > LOG_SIZE
    assert not list(work_dir.glob('.*.part')) and not (work_dir / 'iter_6.pth').exists()


@pytest.mark.long
def test_slurm_job_is_stopped_and_continued(write_config, folder, tmp_path):
    """Two machines are two launchers here; all get SIGTERM, as before a time limit."""
    (tmp_path / 'scontrol').write_text('#!/bin/sh\necho 127.0.0.1\n')
    (tmp_path / 'srun').write_text(
        '#!/bin/bash\nshift\ntrap : TERM\n'
        'SLURM_NODEID=0 "$@" & SLURM_NODEID=1 "$@"\nfirst=$?\nwait $! && exit $first\n'
    )
    for name in ('scontrol', 'srun'):
        (tmp_path / name).chmod(0o755)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    config = write_config('slurm', SEGMENTOR + 'train_cfg = dict(max_iters=300, val_interval=300)')
    variables = dict(
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        PYTHON=sys.executable,
        CUDA_VISIBLE_DEVICES='',
        SLURM_NNODES='2',
        SLURM_JOB_NODELIST='node[1-2]',
        SLURM_JOB_ID=str(os.getpid()),
    )

    def start(*options):
        command = ['bash', 'tools/slurm_train.sh', config, '1', '--work-dir', 'run', *options]
        with (tmp_path / 'printed.txt').open('w') as file:
            return subprocess.Popen(
                command,
                env=os.environ | variables,
                cwd=tmp_path,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed():
        return (tmp_path / 'printed.txt').read_text()

    job = start()
    while job.poll() is None and printed().count('Iter(train)') < 2:
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(timeout=60) != 0
    assert 'SIGTERM: stopped after iteration' in printed(), printed()[-3000:]
    assert (tmp_path / 'run/interrupted.pth').is_file()
    done = int(re.search(r'stopped after iteration (\d+)', printed())[1])
    job = start('--cfg-options', f'train_cfg.max_iters={done + 1}')
    assert job.wait(timeout=120) == 0, printed()[-3000:]
    assert printed().count('Iter(train)') == 1


@pytest.mark.parametrize(
    'signum, message',
    [
        pytest.param(signal.SIGKILL, 'SIGKILL', id='killed'),
        pytest.param(
            signal.SIGSTOP,
            'error: another process has not answered for 5 s',
            marks=pytest.mark.long,
            id='hung',
        ),
    ],
)
def test_killed_or_hung_worker_ends_the_run(signum, message, write_config, folder, tmp_path):
    config, timeout = write_config('killed', SEGMENTOR), ('--timeout', '5')
    printed = tmp_path / 'printed.txt'
    with printed.open('w') as file:
        run = subprocess.Popen(
            [ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', tmp_path / 'run', *timeout],
            env={**os.environ, 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': ''},
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    while run.poll() is None and printed.read_text().count('Iter(train)') < 2:
        time.sleep(0.1)
    workers = list(map(int, Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split()))
    assert len(workers) == 2, printed.read_text()[-3000:]
    os.kill(workers[1], signum)
    assert run.wait(timeout=60) == 1  # torchrun would wait 30 s for a worker that hangs
    assert not any(Path(f'/proc/{worker}').exists() for worker in workers)
    text = printed.read_text()
    assert message in text
    assert text.count('SyncBN needs GPUs: in these 2 CPU processes it is BN') == 1

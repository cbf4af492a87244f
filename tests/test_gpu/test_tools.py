"""The tools on the card, by the commands that a user types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmlab_inline.datasets import write_dataset
from mmlab_inline.report import read_record

ROOT = Path(__file__).parents[2]
DETECTION = ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py'
SEGMENTATION = ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py'
SHORT = {
    DETECTION: [
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.logger.interval=1',
    ],
    SEGMENTATION: [
        'train_cfg.max_iters=6',
        'train_cfg.val_interval=6',
        'default_hooks.checkpoint.interval=3',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.logger.interval=1',
    ],
}
LAST = {DETECTION: 'epoch_2.pth', SEGMENTATION: 'iter_6.pth'}
MIDDLE = {DETECTION: 'epoch_1.pth', SEGMENTATION: 'iter_3.pth'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tools')
    write_dataset(folder / 'work_dirs/demo/data', 24, 4, classes=('circle', 'ring', 'cross'))
    return folder


@pytest.fixture
def run(folder, device):
    """Runs a tool in a folder with drawn data; what it printed.

    Pictures are so small that the kernels run only where they are asked for: ``kernels=False``
    leaves that to the rule, as a user does.
    """

    def run(
        tool: str,
        *arguments: object,
        cwd: Path = folder,
        timeout: float = 240,
        kernels: bool = True,
    ) -> str:
        env = {**os.environ, 'CUDA_VISIBLE_DEVICES': '0' if device == 'cuda' else ''}
        if kernels:
            env['MMLAB_INLINE_TRITON'] = '1'
        command = [str(ROOT / 'tools' / tool), *map(str, arguments)]
        if '--launcher' in command:
            command = ['-m', 'torch.distributed.run', '--standalone', *command]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=cwd,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'amp'])
@pytest.mark.parametrize('config', SHORT, ids=['detector', 'segmentor'])
def test_trained_stopped_resumed_tested(config, amp, run, folder, device, tmp_path):
    """With --deterministic a resumed run has the bits of one that was not stopped."""
    options = ['--seed', '5', '--deterministic', *['--amp'] * amp, '--cfg-options', *SHORT[config]]
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    run('train.py', config, '--work-dir', whole, *options)
    # As if it had been stopped there.
    run('train.py', config, '--work-dir', parts, '--resume', whole / MIDDLE[config], *options)
    expected, found = (weights(work_dir / LAST[config]) for work_dir in (whole, parts))
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not different, f'{len(different)} of {len(expected)} tensors differ, {different[:3]}'
    run('test.py', config, whole / LAST[config], '--work-dir', whole)
    metrics = json.loads((whole / 'metrics.json').read_text())
    assert metrics
    images = folder / 'work_dirs/demo/data/coco/val2017'
    run('infer.py', config, whole / LAST[config], images, '--out', tmp_path / 'pictures')
    assert list((tmp_path / 'pictures').rglob('*.*'))


@pytest.mark.parametrize('kind', ['syncbn', 'syncbn-amp', 'sharded', 'sharded-amp'])
def test_launched(kind, run, folder, device, tmp_path):
    """One process of a distributed run: NCCL, SyncBN or shards."""
    if device == 'cpu' and 'amp' in kind:
        pytest.skip('rehearsed without')
    path = tmp_path / 'config.py'
    text = f"_base_ = '{SEGMENTATION}'\n"
    if 'sharded' in kind:
        text += "strategy = dict(type='mmlab_inline.ShardedStrategy')\n"
    path.write_text(text)
    options = ['--cfg-options', *SHORT[SEGMENTATION]]
    amp = ['--amp'] if 'amp' in kind else []
    work_dir = tmp_path / 'run'
    run('train.py', path, '--work-dir', work_dir, '--launcher', 'pytorch', *amp, *options)
    losses = read_record(work_dir).series('loss')[1]
    assert len(losses) == 6 and all(0 < loss < float('inf') for loss in losses)


def test_benchmark_and_profile(run, on_card, tmp_path):
    size = '256x256' if on_card else '64x64'
    forms = ['auto', 'fast', 'textbook', 'released', 'softmax', 'floor']
    common = ['--sizes', size, '--rounds', 3, '--limit', 5, '--out', tmp_path]
    run('analysis/benchmark.py', 'attention', *common, '--forms', *forms)
    run('analysis/benchmark.py', 'backbone', 'inline-pvt-t', *common, '--forms', *forms)
    for path in tmp_path.glob('*.json'):
        rows = json.loads(path.read_text())['rows']
        assert rows and not any(row['error'] for row in rows)
    printed = run('analysis/profile_step.py', DETECTION, '--size', '160x160')
    shares = [float(word.rstrip('%')) for word in printed.split() if word.endswith('%')]
    assert shares and max(shares) <= 100


def test_waiting_for_data(run, on_card, record, tmp_path):
    """Share of the time that training waits for pictures."""
    number = 400 if on_card else 16
    write_dataset(tmp_path / 'work_dirs/demo/data', number, 4, classes=('circle', 'ring', 'cross'))
    options = [
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=9',
        'default_hooks.logger.interval=10' if on_card else 'default_hooks.logger.interval=1',
        f'train_dataloader.num_workers={4 if on_card else 0}',
        f'train_dataloader.persistent_workers={on_card}',
    ]
    work_dir = tmp_path / 'run'
    command = ('train.py', DETECTION, '--work-dir', work_dir, '--cfg-options', *options)
    run(*command, cwd=tmp_path, kernels=False)
    entries = read_record(work_dir).train[-5:]
    waited, whole = (sum(entry[key] for entry in entries) for key in ('data_time', 'time'))
    record(
        'Training of the demo detector, batch 8 at 160x160',
        workers=4,
        **{
            'ms a step': f'{1000 * whole / len(entries):.0f}',
            'waited for data': f'{waited / whole:.0%}',
        },
    )
    assert 0 <= waited < whole


def test_demo(run, on_card, record, tmp_path):
    """The demonstration reaches the figures that it has on a CPU."""
    quick = [] if on_card else ['--quick']
    run('demo.py', *quick, cwd=tmp_path, timeout=420, kernels=False)
    summary = json.loads((tmp_path / 'work_dirs/demo/summary.json').read_text())
    record(
        'The demonstration',
        **{
            'box AP': f'{summary["box_ap"]:.3f}',
            'mask AP': f'{summary["mask_ap"]:.3f}',
            'mIoU': f'{summary["miou"]:.1f}',
            'seconds': summary['seconds'],
        },
    )
    if on_card:
        assert summary['box_ap'] > 0.75 and summary['mask_ap'] > 0.53 and summary['miou'] > 85.5

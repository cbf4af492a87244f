"""tools/sweep.py: what it refuses before it runs, and a real sweep that is killed and goes on."""

import json
import os
import runpy
import subprocess
import sys
import time

import pytest

from mmlab_inline.analysis.flops import count_config
from mmlab_inline.analysis.sweep import Point, plan
from mmlab_inline.datasets import write_dataset
from mmlab_inline.engine import build_model, load_config
from mmlab_inline.report.sweep import Row

from .test_killed_runs import CONFIGS, ROOT, records

pytest.importorskip('mmseg')

SWEEP = str(ROOT / 'tools/sweep.py')
ATTENTION = 'model.backbone.attention=inline,softmax'
SWIN = (
    "{'_delete_': True, 'type': 'mmlab_inline.InLineSwin', 'arch': {'embed_dims': 8, "
    "'depths': (1, 1, 1, 1), 'num_heads': (1, 2, 4, 4), 'mlp_ratios': 4}}"
)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Six iterations on drawn data."""
    folder = tmp_path_factory.mktemp('sweep')
    write_dataset(folder / 'data', 12, 4, size=64, classes=('circle', 'ring', 'cross'))
    text = CONFIGS['iterations'].replace('ROOT', str(ROOT)).replace('DATA', str(folder / 'data'))
    text = text.replace('WORKERS', '0').replace('max_iters=18', 'max_iters=6')
    path = folder / 'tiny.py'
    path.write_text(
        f'{text}test_dataloader = val_dataloader\n'
        'default_hooks = dict(logger=dict(interval=1), checkpoint=checkpoint)\n'
    )
    return str(path)


@pytest.fixture
def sweep(config, tmp_path, monkeypatch, capsys):
    """Runs the tool; exit status and what it printed."""

    def run(*arguments):
        out = tmp_path / 'out'
        monkeypatch.setattr(sys, 'argv', [SWEEP, config, *arguments, '--out', str(out)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(SWEEP, run_name='__main__')
        assert not out.exists()
        return end.value.code, ''.join(capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--vary', 'model.backbone.atention=a,b'], "unknown key 'atention'"),
        (['--vary', 'model.backbone.attention=inline,none_such'], 'attention=none_such: the model'),
        (['--vary', 'optim_wrapper.optimizer.lr=1e-4,fast'], 'lr=fast: the optimizer does not'),
        (['--vary', 'train_dataloader.dataset.data_root=/none'], 'train data: /none/'),
        (['--vary', ATTENTION, '--vary', ATTENTION], 'model.backbone.attention is given twice'),
        (
            ['--vary', ATTENTION, '--cfg-options', 'model.backbone.attention=mala'],
            'model.backbone.attention is given twice',
        ),
        (['--vary', 'randomness.seed=1,2'], 'randomness.seed is 0, 1, ... in a sweep: --seeds N'),
        (['--vary', ATTENTION, '--seeds', '0'], 'is not a whole number of at least 1'),
        (
            ['--vary', ATTENTION, '--vary', 'model.backbone.window_size=7,0'],
            'attention=inline model.backbone.window_size=0: the model does not build',
        ),
        (['--vary', 'model.neck.in_channels=[1,2,3,4]'], 'the model does not run'),
        (['--vary', 'model.decode_head.in_index=[0,1,2,7]'], 'the model does not run'),
        (['--vary', 'train_cfg.max_iters=6,0'], 'train_cfg.max_iters=0 must be a whole number'),
        (['--vary', 'train_cfg.val_interval=2.5'], 'train_cfg.val_interval=2.5 must be a whole'),
        (['--vary', 'test_dataloader.batch_size=abc'], "test_dataloader.batch_size='abc' must be"),
        (['--vary', 'param_scheduler.1.type=NoSuch'], 'param_scheduler.1: NoSuch is unknown'),
        (['--vary', 'param_scheduler.0.start_factor=2'], 'param_scheduler does not build'),
        (['--vary', 'param_scheduler=None,fast'], 'param_scheduler does not build'),
        (['--vary', 'train_cfg=6'], 'train_cfg=6 must be a dict'),
        (['--vary', 'val_evaluator.type=NoSuch'], 'val_evaluator: NoSuch is unknown'),
        (['--vary', "custom_hooks=[{'type': 'No'}]"], 'custom_hooks.0: No is unknown'),
        (['--vary', 'val_cfg.type=NoSuch'], 'val_cfg: NoSuch is unknown'),
        (
            ['--vary', 'train_dataloader.dataset.pipeline.1.type=NoSuch'],
            'train_dataloader.dataset.pipeline.1: NoSuch is unknown',
        ),
        (['--vary', 'test_evaluator=None'], 'there is no test_evaluator'),
        (['--vary', "randomness={'seed':3},{'seed':4}"], "as randomness={'seed':3}"),
        (['--vary', 'work_dir=a,b'], 'work_dir=b: this is the same run as work_dir=a'),
        (['--vary', 'train_pipeline=[],None'], 'this is the same run as train_pipeline=[]'),
        (
            [
                *('--vary', 'model.backbone.attention=inline,softmax'),
                *('--vary', 'model.backbone.init_cfg=None'),
                *('--vary', f'model.backbone={SWIN}'),
            ],
            'this is the same run as model.backbone.attention=inline',
        ),
    ],
)
def test_refuses_in_a_line_before_it_runs(arguments, message, sweep):
    status, printed = sweep(*arguments)
    assert status == 2
    assert printed.startswith('error: ')
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_plan_has_all_combinations_with_their_cost(config):
    """Of another library's backbone too, whose channels are those of the neck."""
    resnet = dict(type='ResNet', depth=18, base_channels=8, _delete_=True)
    varied = [
        ('model.backbone', {'resnet': resnet}),
        ('model.decode_head.channels', {'16': 16, '32': 32}),
        ('optim_wrapper.optimizer.lr', {'1e-4': 1e-4}),
    ]
    points = plan(config, varied, {'train_cfg.max_iters': 2}, False)
    labels = [f'backbone=resnet, channels={channels}, lr=1e-4' for channels in (16, 32)]
    assert [point.label for point in points] == labels
    for point, channels in zip(points, (16, 32), strict=True):
        assert point.options == {
            'train_cfg.max_iters': 2,
            'model.backbone': resnet,
            'model.decode_head.channels': channels,
            'optim_wrapper.optimizer.lr': 1e-4,
        }
        cfg = load_config(config, point.options)
        model = build_model(cfg.model, 'mmseg')
        assert type(model.backbone).__name__ == 'ResNet'
        assert point.params == sum(p.numel() for p in model.parameters())
        assert point.flops == count_config(cfg)[''].flops


@pytest.mark.parametrize(
    'options',
    [
        # Takes images of its own size alone, which is not that of published tables.
        {
            'model.backbone': dict(
                type='BEiT',
                img_size=64,
                patch_size=16,
                embed_dims=24,
                num_layers=4,
                num_heads=2,
                out_indices=(0, 1, 2, 3),
                _delete_=True,
            ),
            'model.neck.in_channels': [24] * 4,
        },
        # Takes more than maps.
        {
            'model.decode_head': dict(
                type='PointHead', in_channels=[64], in_index=[0], channels=8, _delete_=True
            )
        },
    ],
    ids=['size', 'head'],
)
def test_a_model_that_cannot_be_counted_may_run(options, config):
    options = {**options, 'model.decode_head.num_classes': 4}
    (point,) = plan(config, [('optim_wrapper.optimizer.lr', {'1e-4': 1e-4})], options, False)
    assert point.flops is None


def test_values_in_brackets_are_printed(capsys):
    values = '[mala,softmax]', '[/data/a,/data/b]'
    rows = [Row(Point({'attention': value}, {}, 1, None)) for value in values]
    runpy.run_path(SWEEP)['print_table'](rows)
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ['attention', *values]


@pytest.mark.long
def test_killed_and_continued(config, tmp_path, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    out = tmp_path / 'out'
    command = [sys.executable, SWEEP, config, '--vary', ATTENTION, '--out', str(out)]
    process = subprocess.Popen(command)
    while not list(out.glob('01*/iter_3.pth')):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert not list(out.glob('*/result.json'))

    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '2 runs, 2 of them to do' in first.stdout
    folders = sorted(path.parent for path in out.glob('*/result.json'))
    assert [path.name for path in folders] == [
        '01_attention=inline_seed=0',
        '02_attention=softmax_seed=0',
    ]
    written = {path: os.stat(path / 'result.json').st_mtime_ns for path in folders}
    for number, folder in enumerate(folders):
        assert len(records(folder)) == 6
        found = json.loads((out / 'sweep.json').read_text())[number]
        assert found['mIoU'] == json.loads((folder / 'metrics.json').read_text())['mIoU']

    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '2 runs, 0 of them to do' in again.stdout
    assert {path: os.stat(path / 'result.json').st_mtime_ns for path in folders} == written
    other = subprocess.run([*command, '--seeds', '2'], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert 'holds another sweep' in other.stderr

"""Wrong input to the tools: one clear line and exit status 2, before anything is built."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mmlab_inline.datasets import write_dataset
from mmlab_inline.engine import build_model, load_config

pytest.importorskip('mmdet')

ROOT = Path(__file__).parents[2]
DETECTOR = str(ROOT / 'configs/detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py')
SEGMENTOR = str(
    ROOT / 'configs/segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'
)
DEMO = str(ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py')


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Runs a tool in an empty folder; its one line of error."""
    monkeypatch.chdir(tmp_path)

    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [tool, *arguments])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        assert stop.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert [line[:7] for line in lines if line[:1].islower()] == ['error: ']
        return lines[-1]

    return run


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_config_not_found(fails, tool):
    arguments = ['absent.py', 'absent.pth'] if tool == 'test.py' else ['absent.py']
    assert 'config absent.py does not exist' in fails(tool, *arguments)


def test_unknown_flag(fails):
    assert '--batch' in fails('train.py', DETECTOR, '--batch', '3')


def test_weights_missing_name_their_page(fails):
    line = fails('train.py', DETECTOR)
    assert 'pretrained/inline_pvt_tiny.pth does not exist' in line
    assert 'https://' in line
    assert '--from-scratch' in line


def test_coco_missing(fails):
    line = fails('train.py', DETECTOR, '--from-scratch')
    assert 'data/coco' in line
    assert 'cocodataset.org' in line


def test_ade20k_missing(fails):
    line = fails('train.py', SEGMENTOR, '--from-scratch')
    assert 'data/ade' in line
    assert 'ADEChallengeData2016.zip' in line


def test_unknown_option(fails):
    line = fails('train.py', DETECTOR, '--cfg-options', 'model.backbone.drop_path=0.3')
    assert "did you mean 'drop_path_rate'?" in line


def test_option_without_a_value(fails):
    assert 'KEY=VALUE' in fails('train.py', DETECTOR, '--cfg-options', 'train_cfg.max_epochs')


def test_resume_from_nothing(fails):
    assert 'absent.pth does not exist' in fails('train.py', DETECTOR, '--resume', 'absent.pth')


def test_accumulate_zero(fails):
    assert '--accumulate' in fails('train.py', DETECTOR, '--accumulate', '0')


def test_auto_scale_lr_without_a_base(fails):
    options = ['--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=0']
    assert 'base_batch_size' in fails('train.py', DETECTOR, '--from-scratch', *options)


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_launcher_without_torchrun(fails, tool):
    arguments = [DETECTOR, 'absent.pth'][: 2 if tool == 'test.py' else 1]
    line = fails(tool, *arguments, '--launcher', 'pytorch')
    assert 'was not started by torchrun' in line


def test_more_processes_than_gpus(fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    line = fails('train.py', DETECTOR, '--launcher', 'pytorch')
    assert '3 processes on this machine, but 2 visible GPUs' in line


@pytest.mark.skipif(torch.cuda.is_available(), reason='GPUs can be started by Slurm')
def test_launcher_that_needs_gpus(fails):
    assert 'tools/dist_train.sh' in fails('train.py', DETECTOR, '--launcher', 'slurm')


def test_checkpoint_not_found(fails):
    assert 'absent.pth does not exist' in fails('test.py', DETECTOR, 'absent.pth')


def test_checkpoint_of_another_model(fails, tmp_path):
    write_dataset(tmp_path / 'work_dirs/demo/data', 2, 2, classes=('circle', 'ring', 'cross'))
    torch.save(dict(state_dict=torch.nn.Linear(2, 3).state_dict()), 'other.pth')
    line = fails('test.py', DEMO, 'other.pth')
    assert 'other.pth is of another model' in line
    assert not Path('metrics.json').exists()


def test_metrics_cannot_be_written(fails, tmp_path):
    pytest.importorskip('mmseg')
    config = str(ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py')
    write_dataset(tmp_path / 'work_dirs/demo/data', 2, 2, classes=('circle', 'ring', 'cross'))
    model = build_model(load_config(config).model, 'mmseg')
    torch.save(dict(state_dict=model.state_dict()), 'random.pth')
    (tmp_path / 'run/metrics.json').mkdir(parents=True)
    line = fails('test.py', config, 'random.pth', '--work-dir', 'run')
    assert line.endswith('run/metrics.json cannot be written: Is a directory')


def test_out_needs_a_pickle_name(fails, tmp_path):
    write_dataset(tmp_path / 'work_dirs/demo/data', 2, 2, classes=('circle', 'ring', 'cross'))
    torch.save({}, 'a.pth')
    assert '.pkl' in fails('test.py', DEMO, 'a.pth', '--out', 'predictions.json')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts_say_how_they_are_called(script):
    import subprocess

    run = subprocess.run(
        [shutil.which('bash'), str(ROOT / 'tools' / script)], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert 'usage' in run.stderr


def test_resume_without_a_checkpoint_keeps_the_pretrained_weights(fails):
    # A restarted job that never saved must not silently train from random weights.
    assert 'inline_pvt_tiny.pth' in fails('train.py', DETECTOR, '--resume')


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_model_does_not_build(fails, tool, tmp_path):
    write_dataset(tmp_path / 'work_dirs/demo/data', 2, 2, classes=('circle', 'ring', 'cross'))
    torch.save({}, 'a.pth')
    arguments = [DEMO, 'a.pth'][: 2 if tool == 'test.py' else 1]
    line = fails(tool, *arguments, '--cfg-options', 'model.backbone.arch=tinny')
    assert 'the model does not build: ' in line
    assert "'tinny'" in line

"""tools/analysis/get_flops.py as a user calls it."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / 'tools/analysis/get_flops.py')
DETECTOR = str(ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py')
SEGMENTOR = str(ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py')
CASCADE = str(
    ROOT / 'configs/detection/inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py'
)


@pytest.fixture
def get_flops(monkeypatch, capsys, tmp_path):
    """Runs the tool in an empty folder; what it printed, or its error line if it must fail."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, fails=False):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        if not fails:
            runpy.run_path(TOOL, run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(TOOL, run_name='__main__')
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert not out
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        return err

    return run


def test_figures_come_with_their_convention(get_flops):
    out = get_flops(DETECTOR)
    assert '800 x 1280' in out
    for what in ('FLOPs', 'parameters', 'activations'):
        assert any(line.startswith(what) for line in out.splitlines())
    words = ' '.join(out.split())
    assert 'multiply-accumulates' in words
    assert '1000 boxes and 100 masks' in words


@pytest.mark.parametrize(('config', 'shape'), [(DETECTOR, [800, 1280]), (SEGMENTOR, [512, 2048])])
def test_json(get_flops, config, shape):
    report = json.loads(get_flops(config, '--json'))
    assert set(report) == {'flops', 'params', 'activations', 'shape', 'convention', 'config'}
    for what in ('flops', 'params', 'activations'):
        assert type(report[what]) is int
        assert report[what] > 0
    assert report['shape'] == shape
    assert report['config'] == config
    assert 'multiply-accumulates' in report['convention']


def test_shape_and_options(get_flops):
    small, wide = (
        json.loads(get_flops(SEGMENTOR, '--json', '--shape', 64, width)) for width in (64, 128)
    )
    assert wide['shape'] == [64, 128]
    assert wide['flops'] == pytest.approx(2 * small['flops'], rel=0.2)
    assert wide['params'] == small['params']
    options = ['--cfg-options', 'model.backbone.attention=softmax']
    softmax = json.loads(get_flops(SEGMENTOR, '--json', '--shape', 64, 64, *options))
    assert softmax['params'] != small['params']


def test_by_module(get_flops):
    lines = get_flops(DETECTOR, '--by-module', '--shape', 64, 96).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith('model '))
    tree = [line.split()[:-4] for line in lines[start:]]
    for branch in (['├──', 'backbone'], ['│', '├──', 'block1'], ['├──', 'bbox_head']):
        assert branch in tree
    assert '100.0%' in lines[start]


def test_depth(get_flops):
    arguments = [DETECTOR, '--by-module', '--json', '--shape', 64, 96]
    modules = json.loads(get_flops(*arguments, '--depth', 1))['modules']
    assert list(modules) == ['backbone', 'neck', 'rpn_head', 'roi_head']
    total = json.loads(get_flops(*arguments))
    assert sum(module['flops'] for module in modules.values()) == total['flops']
    assert 'backbone.block1.0' in total['modules']


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_plot(get_flops, tmp_path, config):
    out = get_flops(config, '--plot', 'pictures/growth.png')
    assert 'pictures/growth.png' in out
    picture = Image.open(tmp_path / 'pictures/growth.png')
    assert picture.format == 'PNG'
    assert len(picture.convert('RGB').getcolors(2**20)) > 100


def test_plot_of_a_softmax_backbone(get_flops, tmp_path):
    options = ['--cfg-options', 'model.backbone.attention=softmax']
    get_flops(SEGMENTOR, '--json', '--plot', tmp_path / 'growth.png', *options)
    assert (tmp_path / 'growth.png').is_file()


def test_a_process_prints_json_alone_and_allocates_no_weights():
    """145 M parameters and the maps of an 800 x 1280 image would take gigabytes."""
    # VmHWM, since getrusage's maximum starts at that of the process which started this one.
    measure = (
        'import runpy, sys; sys.argv = sys.argv[1:]; '
        "runpy.run_path(sys.argv[0], run_name='__main__'); "
        "print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    options = [
        'model.backbone.arch=base',
        'model.neck.in_channels=[128,256,512,1024]',
        'model.backbone.attention=softmax',
    ]
    done = subprocess.run(
        [sys.executable, '-c', measure, TOOL, CASCADE, '--json', '--cfg-options', *options],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['params'] == pytest.approx(145e6, rel=0.01)
    peak_kib = int(re.search(r'VmHWM:\s+(\d+) kB', done.stderr)[1])
    assert peak_kib < 1.3e6  # imports take 0.8e6


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.py'], 'config absent.py does not exist'),
        ([DETECTOR.replace('demo_shapes', 'demo_shape')], "mask-rcnn_inline-pvt-demo_shapes.py'?"),
        ([], 'config'),
        ([DETECTOR, '--shape', '0', '10'], '--shape'),
        ([DETECTOR, '--shape', '800'], '--shape'),
        ([DETECTOR, '--shape', '800', 'wide'], "'wide'"),
        ([DETECTOR, '--shape', '800', '1280', '3'], '3'),
        ([DETECTOR, '--sizes', '3'], '--sizes'),
        ([DETECTOR, '--depth', '-1'], '--depth'),
        ([DETECTOR, '--plot', 'growth.jpg'], '.png'),
        ([DETECTOR, '--plot', '/proc/absent/growth.png'], 'cannot be written'),
        ([DETECTOR, '--cfg-options', 'model.backbone.arch'], 'KEY=VALUE'),
        ([DETECTOR, '--cfg-options', 'model.backbone.kernle=relu'], "did you mean 'kernel'?"),
        ([DETECTOR, '--cfg-options', 'model.backbone.arch=huge'], "unknown arch 'huge'"),
        ([DETECTOR, '--cfg-options', 'model.neck.in_channels=[1,2,3,4]'], 'does not run'),
        ([str(ROOT / 'configs/segmentation/_base_/ade20k_512x512.py')], 'no model'),
    ],
)
def test_wrong_input_is_one_line(get_flops, arguments, message):
    assert message in get_flops(*arguments, fails=True)

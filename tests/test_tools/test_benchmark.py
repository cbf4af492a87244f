"""tools/analysis/benchmark.py as a user calls it, at sizes that take seconds."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / 'tools/analysis/benchmark.py')
DETECTOR = str(ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py')
SEGMENTOR = str(ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py')
DEFAULT_FORMS = [
    'released',
    'released-attention',
    'textbook',
    'fast',
    'auto',
    'softmax',
    'floor',
]


@pytest.fixture
def benchmark(monkeypatch, capsys, tmp_path):
    """Runs the tool in an empty folder; what it printed, or its error line if it must fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmlab_inline.analysis.benchmark.timing.SAMPLE_SECONDS', 0)

    def run(*arguments, fails=False):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        if not fails:
            runpy.run_path(TOOL, run_name='__main__')
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(TOOL, run_name='__main__')
        assert stop.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert not list(tmp_path.rglob('*.json'))
        return err

    return run


def check_report(folder, name, passes, sizes, forms=DEFAULT_FORMS):
    report = json.loads((folder / f'{name}_cpu.json').read_text())
    cells = [(row['size'], row['pass'], row['form']) for row in report['rows']]
    assert cells == [(size, phase, form) for size in sizes for phase in passes for form in forms]
    for row in report['rows']:
        assert row['error'] is None
        assert row['median'] > 0
        assert row['rate'] > 0
        assert len(row['seconds']) == 3
    for name_of_fact in ('cpu', 'threads', 'precision', 'torch', 'date'):
        assert report['machine'][name_of_fact]
    picture = Image.open(folder / f'{name}_cpu.png')
    assert len(picture.convert('RGB').getcolors(2**20)) > 100
    return report


def check_equal_forms(report, tolerance):
    """Every form but the other network and the floor gives what auto gives."""
    differences = {
        row['form']: row['difference'] for row in report['rows'] if row['pass'] == 'forward'
    }
    assert all(
        differences[form] < tolerance
        for form in ('released', 'released-attention', 'textbook', 'fast')
    )
    assert differences['softmax'] is differences['floor'] is None


PASSES = ('forward', 'forward+backward')


@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_attention(benchmark, tmp_path, qkv):
    sizes = ['--sizes', '9x14', '16x16']
    out = benchmark(
        'attention', '--channels', 32, '--qkv', qkv, *sizes, '--rounds', 3, '--device', 'cpu'
    )
    report = check_report(
        tmp_path / 'work_dirs/benchmark',
        f'attention-inline-32x2-{qkv}',
        PASSES,
        [[9, 14], [16, 16]],
    )
    check_equal_forms(report, 1e-5)
    assert len(report['growth']) == 2 * len(DEFAULT_FORMS)
    for word in ('9x14 forward', '16x16 forward+backward', *DEFAULT_FORMS, 'kept MiB', 'times'):
        assert word in out


@pytest.mark.parametrize('name', ['inline-pvt-t', 'inline-swin-t'])
def test_backbone(benchmark, tmp_path, name, no_random_init):
    benchmark(
        *('backbone', name, '--sizes', '32x64', '--batch', 2, '--rounds', 3, '--out', 'here'),
        *('--options', 'out_indices=(0,1)', '--device', 'cpu'),
    )
    report = check_report(tmp_path / 'here', name, PASSES, [[32, 64]])
    check_equal_forms(report, 1e-4)
    assert 'out_indices' in report['subject']
    assert report['batch'] == 2


def test_other_attentions(benchmark, tmp_path, no_random_init):
    """Each in every block, beside the one that the network has."""
    forms = ['auto', 'hydra', "{'type': 'agent', 'agent_num': 9}"]
    for arguments in (
        ('backbone', 'inline-pvt-t', '--options', 'out_indices=(0,1)'),
        ('attention', '--channels', 32),
    ):
        out = benchmark(
            *(*arguments, '--sizes', '32x64', '--rounds', 3, '--out', tmp_path),
            *('--device', 'cpu', '--forms', *forms),
        )
        name = 'inline-pvt-t' if arguments[0] == 'backbone' else 'attention-inline-32x2-separate'
        report = check_report(tmp_path, name, PASSES, [[32, 64]], forms)
        auto, hydra, agent = report['rows'][:3]
        assert hydra['over_auto'] == hydra['median'] / auto['median']
        assert len({row['moved_bytes'] for row in (auto, hydra, agent)}) == 3
        assert all(form in out for form in forms)


def test_half_precision(benchmark, tmp_path):
    arguments = ('--sizes', '9x14', '--rounds', 3, '--amp', 'bf16', '--device', 'cpu')
    benchmark('attention', *arguments)
    report = check_report(
        tmp_path / 'work_dirs/benchmark', 'attention-inline-64x2-separate', PASSES, [[9, 14]]
    )
    assert report['machine']['precision'] == 'bf16 autocast'
    check_equal_forms(report, 0.05)


@pytest.mark.parametrize('config', [DETECTOR, SEGMENTOR])
def test_config(benchmark, tmp_path, config):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    forms = ['released', 'auto', 'softmax']
    path = tmp_path / f'{Path(config).stem}_1.5x.py'
    path.write_text(f'_base_ = {config!r}\n')
    out = benchmark(
        *('config', path, '--sizes', '64x96', '--batch', 1, '--rounds', 3, '--out', tmp_path),
        *('--device', 'cpu', '--forms', *forms),
    )
    passes = ('inference', 'training')
    report = check_report(tmp_path, path.stem, passes, [[64, 96]], forms)
    assert [row['unit'] for row in report['rows'][::3]] == ['frames/s', 'iterations/s']
    assert 'init_weights' not in out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'attention|backbone|config'),
        (['attention', '--sizes', '512'], "'512' is not HxW"),
        (['attention', '--channels', '10', '--heads', '4'], 'does not divide'),
        (['attention', '--rounds', '0'], '--rounds'),
        (['attention', '--attention', 'inlin'], "did you mean 'inline'?"),
        (['attention', '--forms', 'slow'], "'slow'"),
        (['attention', '--forms', 'auto', 'agnt'], "did you mean 'agent'?"),
        (['attention', '--forms', 'auto', 'graph', '--device', 'cpu'], 'needs --device cuda'),
        (['backbone', 'inline-pvt-x'], 'inline-pvt-t'),
        (['backbone', 'inline-pvt-t', '--options', 'kernle=relu'], "did you mean 'kernel'?"),
        (['backbone', 'inline-pvt-t', '--options', 'inline_window_size=7'], 'whole maps'),
        (['backbone', 'inline-pvt-t', '--out', '/proc/absent'], 'cannot be written'),
        (['config', 'absent.py'], 'config absent.py does not exist'),
        (['config', DETECTOR, '--cfg-options', 'model.backbone.kernle=relu'], 'kernle'),
    ],
)
def test_wrong_input_is_one_line(benchmark, arguments, message, no_random_init):
    if arguments[:1] == ['config']:
        pytest.importorskip('mmdet')
    assert message in benchmark(*arguments, fails=True)

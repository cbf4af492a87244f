import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mmlab_inline import runs

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

DEMO = Path(__file__).parents[2] / 'tools/demo.py'


@pytest.mark.parametrize(
    ('device', 'ops', 'has_instructions', 'options'),
    [
        ('cpu', '_ext.py', True, ['--amp']),
        ('cpu', '_ext.py', False, []),
        ('cpu', '_ext.cpython-312.so', True, []),
        ('cuda', '_ext.py', True, []),
    ],
)
def test_mixed_precision_where_it_is_faster(device, ops, has_instructions, options, monkeypatch):
    amp = runpy.run_path(str(DEMO))['amp']
    monkeypatch.setattr('mmengine.device.get_device', lambda: device)
    monkeypatch.setattr(runs, 'has_bfloat16_instructions', lambda: has_instructions)
    import mmcv.ops  # noqa: F401 - the module that stands in for its ops is none to it

    monkeypatch.setitem(sys.modules, 'mmcv._ext', SimpleNamespace(__file__=ops))
    assert amp() == options


def test_quick_demo(tmp_path):
    """The whole demo is run by tests/test_docs/test_quickstart.py."""
    done = subprocess.run(
        [sys.executable, str(DEMO), '--quick'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / 'work_dirs/demo'
    for name in ('loss_curves.png', 'predictions.png'):
        assert Image.open(results / name).width > 800
    for name in ('detection', 'segmentation'):
        assert Image.open(results / name / 'curves.png').width > 800
        assert '<h2' in (results / name / 'report.html').read_text()
    summary = json.loads((results / 'summary.json').read_text())
    assert set(summary) == {'box_ap', 'mask_ap', 'miou', 'seconds'}
    assert all(0 <= summary[name] <= 1 for name in ('box_ap', 'mask_ap'))
    assert 0 <= summary['miou'] <= 100
    for name in ('detection', 'segmentation'):
        assert len(list((results / name / 'pictures').rglob('*.png'))) == 20
    for word in ('box AP', 'mask AP', 'mIoU, %', 'seconds', 'predictions.png'):
        assert word in done.stdout

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

DEMO = Path(__file__).parents[2] / 'tools/demo.py'


def run_demo(folder, *arguments):
    done = subprocess.run(
        [sys.executable, str(DEMO), *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = folder / 'work_dirs/demo'
    for name in ('loss_curves.png', 'predictions.png'):
        assert Image.open(results / name).width > 800
    for name in ('detection', 'segmentation'):
        assert Image.open(results / name / 'curves.png').width > 800
        assert '<h2' in (results / name / 'report.html').read_text()
    summary = json.loads((results / 'summary.json').read_text())
    assert set(summary) == {'box_ap', 'mask_ap', 'miou', 'seconds'}
    num_pictures = {
        name: len(list((results / name / 'pictures').rglob('*.png')))
        for name in ('detection', 'segmentation')
    }
    return summary, num_pictures, done.stdout


def test_quick_demo(tmp_path):
    summary, num_pictures, printed = run_demo(tmp_path, '--quick')
    assert all(0 <= summary[name] <= 1 for name in ('box_ap', 'mask_ap', 'miou'))
    assert num_pictures == {'detection': 20, 'segmentation': 20}
    for word in ('box AP', 'mask AP', 'mIoU', 'seconds', 'predictions.png'):
        assert word in printed


@pytest.mark.long
def test_demo_learns(tmp_path):
    summary, num_pictures, _ = run_demo(tmp_path)
    assert num_pictures == {'detection': 120, 'segmentation': 120}
    assert summary['box_ap'] >= 0.5
    assert summary['mask_ap'] >= 0.5
    assert summary['miou'] >= 0.8

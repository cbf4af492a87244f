"""Each command block of docs/quickstart.md as it stands, in order, in a copy of the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from .blocks import ROOT, check_output, read_blocks

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')
pytest.importorskip('onnxruntime')

SOURCES = ('mmlab_inline', 'configs', 'tools', 'requirements', 'Makefile', 'setup.cfg')
MARK = '=== block'


@pytest.fixture
def checkout(tmp_path):
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, symlinks=True)
        else:
            shutil.copy2(ROOT / name, tmp_path / name)
    # In place of the environment that make setup would make.
    activate = tmp_path / '.venv/bin/activate'
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH={Path(sys.executable).parent}:$PATH\n')
    return tmp_path


@pytest.mark.long
def test_quickstart(checkout):
    blocks = read_blocks('quickstart.md', 'bash')
    script = ''.join(f'echo "{MARK} $SECONDS"\n{block.code}' for block in blocks)
    done = subprocess.run(
        ['bash', '-e', '-c', script],
        cwd=checkout,
        env={
            **os.environ,
            'MAKEFLAGS': f'PYTHON={sys.executable}',
            'PYTHONPATH': os.pathsep.join([str(checkout), os.environ.get('PYTHONPATH', '')]),
            'COLUMNS': '200',
            'PYTHONUTF8': '1',
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    printed = done.stdout.split(MARK)[1:]
    for block, text in zip(blocks, printed, strict=True):
        check_output(block.output, text)
    check_demo(checkout / 'work_dirs/demo')
    predictions = json.loads((checkout / 'work_dirs/infer/predictions.json').read_text())
    assert len(list((checkout / 'work_dirs/infer/pictures').iterdir())) == 120
    assert len({prediction['image_id'] for prediction in predictions}) > 100


def check_demo(results: Path) -> None:
    """Both models have learnt."""
    for name in ('loss_curves.png', 'predictions.png'):
        assert Image.open(results / name).width > 800
    for name in ('detection', 'segmentation'):
        assert len(list((results / name / 'pictures').rglob('*.png'))) == 120
    summary = json.loads((results / 'summary.json').read_text())
    assert summary['box_ap'] >= 0.5
    assert summary['mask_ap'] >= 0.5
    assert summary['miou'] >= 80

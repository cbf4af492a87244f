"""docs/tutorial.md prints what it says and draws the pictures that it shows."""

import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from .blocks import DOCS, ROOT, check_output, read_blocks

pytest.importorskip('mmseg')
BLOCKS = read_blocks('tutorial.md', 'python')
MARK = '=== block'


def test_small_pictures():
    pictures = list(DOCS.glob('images/*'))
    assert sum(path.stat().st_size for path in pictures) < 300_000
    shown = re.findall(r'\]\(images/(.*?)\)', (DOCS / 'tutorial.md').read_text())
    drawn = re.findall(r"savefig\(folder / '(.*?)'", ''.join(block.code for block in BLOCKS))
    assert shown == drawn and {path.name for path in pictures} == set(shown)


@pytest.mark.long
def test_tutorial(tmp_path):
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    program = ''.join(f'print({f"{MARK}"!r})\n{block.code}' for block in BLOCKS)
    (tmp_path / 'tutorial.py').write_text(program)
    done = subprocess.run(
        [sys.executable, 'tutorial.py'],
        cwd=tmp_path,
        env={**os.environ, 'MPLBACKEND': 'Agg'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split(MARK)[1:]
    for block, text in zip(BLOCKS, printed, strict=True):
        # Training is chaotic: other processors, other last digits, other weights.
        check_output(block.output, text, tolerance=0.5 if 'runner' in block.code else 0.01)
    for path in (DOCS / 'images').iterdir():
        drawn = Image.open(tmp_path / 'work_dirs/tutorial' / path.name)
        assert drawn.size == Image.open(path).size, path.name

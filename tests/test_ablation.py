"""The ablation configs: what their names say, one setting beside their base."""

import ast
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from mmlab_inline.cli import varied
from mmlab_inline.engine import load_config
from mmlab_inline.engine.model import build_model
from mmlab_inline.mixers import TOKEN_MIXERS

pytest.importorskip('mmseg')

FOLDER = Path(__file__).parents[1] / 'configs/ablation'
BASE = 'sem-fpn_inline-swin-t_8xb2-40k_ade20k-512x512'
KERNELS = {'inline': ('identity', 'relu', 'leakyrelu', 'exp'), 'linear': ('relu', 'exp')}
WINDOWED = {'inline': 'identity', 'linear': 'relu'}
# (attention, kernel, window, local part) by name.
ROWS = {
    '_'.join([name, kernel, *([f'w{window}'] * bool(window)), *(['no-local'] * (not local))]): (
        name,
        kernel,
        window,
        local,
    )
    for name, kernels in KERNELS.items()
    for kernel, window, local in product(kernels, (None, 7, 14, 28, 56), (True, False))
    if window is None or kernel == WINDOWED[name]
}
assert ROWS.pop('inline_identity')  # is the base


def test_there_is_one_of_each_row():
    assert {path.stem for path in FOLDER.glob('*.py')} == {BASE, *ROWS}


@pytest.mark.parametrize('name', [BASE, *ROWS])
def test_row(name):
    expected = ROWS.get(name, ('inline', 'identity', None, True))
    path = FOLDER / f'{name}.py'
    if name in ROWS:
        base, delta = ast.parse(path.read_text()).body
        assert ast.unparse(base) == f"_base_ = './{BASE}.py'"
        assert ast.unparse(delta).startswith('model = dict(backbone=dict(attention=')
    model = build_model(load_config(str(path)).model, 'mmseg', device='meta')
    kind, kernel, window, local = expected
    for number, stage in enumerate(model.backbone.layers):
        for index, block in enumerate(stage.blocks):
            mixer = block.attn
            if number == 3:
                assert type(mixer) is TOKEN_MIXERS['window']
                continue
            assert type(mixer) is TOKEN_MIXERS[kind]
            assert (mixer.kernel, mixer.window_size) == (kernel, window)
            assert (mixer.residual is not None) == local
            assert mixer.shift == (index % 2 == 1)


def test_full_grid_of_the_page():
    page = (FOLDER / 'README.md').read_text()
    code = re.search(r"<<'END'\n(.*?)END\n", page, re.DOTALL)[1]
    printed = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    _, values = varied(f'model.backbone.attention={printed.stdout.strip()}')
    chosen = []
    for first, *rest, last in values.values():
        assert rest == [first] * 2 and last == 'softmax'
        chosen.append(tuple(first.values()))
    grid = product((7, 14, 28, 56, None), (True, False))
    assert sorted(chosen, key=str) == sorted(
        ((name, kernel, *rest) for rest in grid for name in KERNELS for kernel in KERNELS[name]),
        key=str,
    )
    assert len(chosen) == 60

"""tools/analysis/attention.py as a user calls it."""

import io
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab_inline.analysis import attention
from mmlab_inline.analysis.attention import measure
from mmlab_inline.datasets import draw_image
from mmlab_inline.engine import load_config
from mmlab_inline.report.attention import Photograph, grid_of_queries

pytest.importorskip('mmseg')

from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/analysis/attention.py'
CONFIG = str(ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py')

LINEAR = '--cfg-options', 'model.backbone.attention=linear'


@pytest.fixture(scope='module')
def folder(tmp_path_factory, randomised):
    folder = tmp_path_factory.mktemp('attention')
    Image.fromarray(draw_image(0, 'val', 1, (64, 96)).image).save(folder / 'wide.png')
    Image.fromarray(draw_image(0, 'val', 2, (64, 64)).image).save(folder / 'square.png')
    cfg = load_config(CONFIG)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = randomised(MODELS.build(cfg.model))
    torch.save(dict(state_dict=model.state_dict()), folder / 'model.pth')
    return folder


@pytest.fixture
def tool(folder, tmp_path, monkeypatch, capsys):
    """Runs the tool in an empty folder; what it printed, or its only error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=0, out='out'):
        arguments = [str(TOOL), CONFIG, *map(str, arguments), '--device', 'cpu', '--out', out]
        monkeypatch.setattr(sys, 'argv', arguments)
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOL), run_name='__main__')
        printed = capsys.readouterr()
        assert stop.value.code == code, printed.err
        if code != 2:
            return printed.out + printed.err
        assert not (tmp_path / 'out').exists()
        (line,) = (line for line in printed.err.splitlines() if line.startswith('error: '))
        return line

    return run


def test_page_maps_and_figures(tool, folder, tmp_path):
    printed = tool(
        *(folder / 'wide.png', folder / 'square.png'),
        *('--checkpoint', folder / 'model.pth'),
        *('--query', '60,30', '--query', '0,0'),
    )
    found = json.loads((tmp_path / 'out/attention.json').read_text())
    assert list(found['photographs']) == ['wide', 'square']
    blocks = found['photographs']['wide']
    assert [(block['stage'], block['block']) for block in blocks] == [
        *((1, 1), (2, 1), (3, 1), (3, 2), (4, 1)),
    ]
    assert [block['map'] for block in blocks[::2]] == [[16, 24], [4, 6], [2, 3]]
    # A stage is the mean of its heads, blocks and photographs.
    third = [
        value
        for blocks in found['photographs'].values()
        for block in blocks
        if block['stage'] == 3
        for value in block['figures']['locality']
    ]
    assert found['stages'][2]['locality'] == pytest.approx(np.mean(third))
    assert f'{100 * np.mean(third):.2f}' in printed
    page = (tmp_path / 'out/index.html').read_text()
    written = [(tmp_path / 'out' / name).stat() for name in ('index.html', 'attention.json')]
    assert written[0].st_mtime_ns <= written[1].st_mtime_ns  # where that is, all is
    maps = sorted(path.name for path in (tmp_path / 'out').glob('*.png'))
    assert maps == sorted(
        f'{name}_{query}.png' for name in ('wide', 'square') for query in ('60_30', '0_0')
    )
    assert page.count('data:image/png') == 4
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_without_weights_and_by_head(tool, folder, tmp_path):
    options = '--cfg-options', 'model.backbone.attention=fcvit'
    printed = tool(folder / 'wide.png', *options)
    assert 'stage 1: fcvit has no weights over tokens.' in printed
    assert not list((tmp_path / 'out').glob('*.png'))
    attention = "model.backbone.attention=['fcvit', 'linear', 'linear', 'linear']"
    tool(folder / 'wide.png', '--grid', 1, '--per-head', '--cfg-options', attention)
    (path,) = (tmp_path / 'out').glob('*.png')
    width, height = Image.open(io.BytesIO(path.read_bytes())).size
    assert height > 2 * width  # eight heads below each other, three stages


def test_a_photograph_that_fails_costs_no_other(tool, folder, tmp_path, monkeypatch):
    def fail_on_wide(seen, seed):
        if seen.hw_shape[0] != seen.hw_shape[1]:
            raise RuntimeError("can't allocate memory")
        return measure(seen, seed)

    monkeypatch.setattr(attention, 'measure', fail_on_wide)
    printed = tool(folder / 'wide.png', folder / 'square.png', code=1)
    assert "wide.png cannot be looked at: RuntimeError: can't allocate memory" in printed
    found = json.loads((tmp_path / 'out/attention.json').read_text())
    assert list(found['photographs']) == ['square']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--query', '96,10'), r'--query 96,10 lies outside .*wide.png, .* 0,0 to 95,63'),
        (('--query', '10,63.9'), r'--query 10,63.9 lies outside'),
        (('--query', '-0.2,0'), r'--query -0.2,0 lies outside'),
        (('--query', '10'), r"'10' is not X,Y, such as 320,200"),
        (
            ('--checkpoint', '{folder}/model.pth', *LINEAR),
            r'checkpoint .*model.pth .*unknown',
        ),
        (('--checkpoint', 'none.pth'), r'none.pth'),
        (('none.png',), r'input none.png does not exist'),
        (('--cfg-options', 'model.backbone.attention=inlin'), r"'inline'"),
    ],
)
def test_bad_input(tool, folder, arguments, message):
    arguments = [argument.format(folder=folder) for argument in arguments]
    images = [argument for argument in arguments[:1] if argument.endswith('.png')]
    line = tool(folder / 'wide.png', *images, *arguments[len(images) :], code=2)
    assert re.search(message, line)


def test_a_file_in_place_of_the_folder_is_refused_at_once(tool, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(attention, 'measure', None)
    (tmp_path / 'file').touch()
    line = tool(folder / 'wide.png', code=2, out='file')
    assert 'file cannot be written: File exists' in line


def test_pixels_are_brought_to_tokens():
    class Seen:
        stride, hw_shape = 8, (9, 13)

    photo = Photograph('a', np.zeros((30, 40, 3), np.uint8), shape=(60, 80))
    assert photo.token((0, 0), Seen) == 0
    assert photo.token((39, 29), Seen) == 7 * 13 + 9
    assert photo.token((4, 3.4), Seen) == 1
    assert grid_of_queries((30, 40), 2) == [(10, 7), (30, 7), (10, 22), (30, 22)]

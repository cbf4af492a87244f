"""What docs/architecture.md and docs/attentions.md show works."""

import sys

import pytest
import torch

from mmlab_inline import InLinePVT, InLineSwin, build_attention
from mmlab_inline.mixers import TOKEN_MIXERS

from .blocks import ROOT, read_blocks


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The page's file, beside those of the package for one test."""
    (block,) = read_blocks('architecture.md', 'python')
    (tmp_path / 'mean.py').write_text(block.code)
    monkeypatch.setattr('mmlab_inline.mixers.__path__', [str(tmp_path)], raising=False)
    import mmlab_inline.mixers.mean  # noqa: F401 - the line of the page

    yield TOKEN_MIXERS['mean']
    del TOKEN_MIXERS['mean'], sys.modules['mmlab_inline.mixers.mean']


def test_the_pages_attention(added, build_narrow):
    mixer = build_attention('mean', 16, 2, factor=3.0)
    x = torch.randn(2, 35, 16)
    k, v = mixer.kv(x).chunk(2, 2)
    expected = mixer.proj(3 * mixer.q(x) * (k * v).mean(1, keepdim=True))
    assert torch.allclose(mixer(x, (5, 7)), expected, atol=1e-6)
    for cls in (InLinePVT, InLineSwin):
        model = build_narrow(
            cls, attention=('mean', dict(type='mean', window_size=3), 'inline', 'mean')
        )
        assert len(model(torch.randn(1, 3, 45, 70))) == 4


def test_every_room_is_on_the_page():
    page = (ROOT / 'docs/architecture.md').read_text()
    rooms = [path.name for path in (ROOT / 'mmlab_inline').iterdir() if path.name[0] not in '._']
    for room in rooms:
        assert f'`{room}/`' in page or f'`{room}`' in page, room


def test_examples_of_attentions():
    for block in read_blocks('attentions.md', 'python'):
        exec(block.code, {})

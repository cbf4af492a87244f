"""tools/analysis/profile_step.py as a user calls it."""

import re
import runpy
import sys

import pytest

from .test_benchmark import DETECTOR, ROOT, SEGMENTOR

TOOL = str(ROOT / 'tools/analysis/profile_step.py')


@pytest.mark.parametrize(
    ('config', 'expected'),
    [(DETECTOR, 'RoIAlign'), (SEGMENTOR, 'interpolation')],
    ids=['detector', 'segmentor'],
)
def test_shares(config, expected, monkeypatch, capsys):
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    arguments = [config, '--size', '96x128', '--batch', '1', '--device', 'cpu']
    monkeypatch.setattr(sys, 'argv', [TOOL, *arguments])
    runpy.run_path(TOOL, run_name='__main__')
    shares = dict(re.findall(r'│ (\S.*?) +│ +([\d.]+)% +│', capsys.readouterr().out))
    shares = {name: float(share) for name, share in shares.items()}
    backbone = shares.pop("of these, the backbone's forward pass")
    attention = shares.pop('of these, its attention')
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert shares['convolutions'] > 1
    assert shares['matrix products'] > 1
    assert shares[expected] > 0
    assert 0 < attention < backbone < 100

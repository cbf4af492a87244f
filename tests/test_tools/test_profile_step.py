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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent.py'], 'config absent.py does not exist'),
        ([DETECTOR, '--size', '512'], "'512' is not HxW"),
        ([DETECTOR, '--device', 'cuda'], 'torch sees no GPU'),
    ],
)
def test_wrong_input_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr(sys, 'argv', [TOOL, *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(TOOL, run_name='__main__')
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and message in err
    assert err.count('\n') == 1

"""Tables of a comparison of attentions, from what the tools leave."""

import json

import numpy as np
import pytest
from PIL import Image

from mmlab_inline.report.comparison import comparison, constant_miou, places


def test_places():
    # 0.9 and 0.8 are equal (0.1 apart, spreads 0.08 and 0.07); 0.5 is below both.
    assert places([0.8, 0.5, 0.9], [0.07, 0.01, 0.08]) == [(1, 2), (3, 3), (1, 2)]
    assert places([0.8, 0.5, 0.9], [0.07, 0.3, 0.01]) == [(2, 3), (2, 3), (1, 1)]
    assert places([1.0, 2.0, 2.0], [0.0] * 3) == [(3, 3), (1, 2), (1, 2)]


@pytest.fixture
def label_maps(tmp_path):
    """Class 2 has 70 of 100 pixels that count."""
    folder = tmp_path / 'maps'
    folder.mkdir()
    for name, pixels in (('a', [1] * 30 + [2] * 20), ('b', [2] * 50 + [0] * 25)):
        Image.fromarray(np.array([pixels], np.uint8)).save(folder / f'{name}.png')
    return folder


def test_constant_prediction(label_maps):
    """It has the IoU 0.7 in one class, 0 in another, and none in two that do not occur."""
    assert constant_miou(label_maps, 4) == pytest.approx(35)


def test_tables(tmp_path, label_maps):
    def write(path, content):
        path = tmp_path / path
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))

    def row(name, metrics, seeds=2):
        found = {'attention': name, 'seeds': seeds, 'parameters, M': 2.345, 'FLOPs, G': 1.2345}
        for metric, (mean, spread) in metrics.items():
            found |= {metric: mean, f'± {metric}': spread}
        return found

    rows = [row('inline', {'mIoU': (40.04, 0.5)}), row('mala', {'mIoU': (41.0, None)}, 1)]
    write('segmentation/sweep.json', rows)
    nothing = {'coco/bbox_mAP': (None, None), 'coco/segm_mAP': (None, None)}
    scores = {'coco/bbox_mAP': (0.5, 0.01), 'coco/segm_mAP': (0.4, 0.02)}
    write('detection/sweep.json', [row('vig', nothing, 0), row('inline', scores)])
    stages = [
        dict(confusion=0.125, locality=1.0, locality_with_local=None, masking=0.004),
        dict(confusion=0.5, locality=None, locality_with_local=None, masking=0.2),
    ]
    write('attention/inline/attention.json', {'stages': stages})
    nothing = dict.fromkeys(('confusion', 'locality', 'locality_with_local', 'masking'))
    write('attention/fcvit/attention.json', {'stages': [nothing, nothing]})
    cells = [
        dict(zip(('form', 'pass', 'median', 'over_auto', 'kept_bytes'), cell, strict=True))
        for cell in (
            ('auto', 'forward', 0.1, 1.0, None),
            ('mala', 'forward', 0.15, 1.5, None),
            ('auto', 'forward+backward', 0.3, 1.0, 2**20),
            ('mala', 'forward+backward', 0.6, 2.0, 3 * 2**20),
            ('vig', 'forward', 0.2, 2.0, None),
            ('vig', 'forward+backward', None, None, None),
        )
    ]
    write('benchmark/x.json', {'rows': [{**cell, 'size': [8, 16]} for cell in cells]})
    lines = comparison(tmp_path, label_maps, 4).splitlines()
    assert lines[0].startswith('The commonest class everywhere has 35.0% mIoU. GFLOPs are')
    assert '512 x 2048 pixels in the first table and 800 x 1280 in the second' in lines[0]
    assert [line for line in lines if line.startswith('| attention')][2:] == [
        '| attention | 8 x 16, forward, ms | 8 x 16, forward+backward, ms | 8 x 16, MiB kept |',
        '| attention | confusion, % | locality, % | locality with local, % | masking, % |',
    ]
    assert [line for line in lines if line.startswith('| `')] == [
        '| `mala` | 41.0 | - | 1 | 2.35 | 1.23 |',
        '| `inline` | 40.0 ± 0.5 | 1 | 2 | 2.35 | 1.23 |',
        '| `inline` | 50.0 ± 1.0 | 40.0 ± 2.0 | 1 | 2 | 2.35 | 1.23 |',
        '| `vig` | - | - | - | 0 | 2.35 | 1.23 |',
        '| `inline` | 100 | 300 | 1 |',
        '| `mala` | 150 (1.50) | 600 (2.00) | 3 |',
        '| `vig` | 200 (2.00) | failed | - |',
        '| `inline` | 12 / 50 | 100 / - |  | 0 / 20 |',
    ]

"""Speed and memory of the forms side by side; nothing is asserted of them but that they run."""

from pathlib import Path

import pytest

from mmlab_inline.analysis.benchmark import (
    AttentionSubject,
    BackboneSubject,
    ConfigSubject,
    Device,
    Row,
    Subject,
    measure,
)
from mmlab_inline.choices import FORMS
from mmlab_inline.engine import load_config
from mmlab_inline.mixers import Site

pytestmark = pytest.mark.figures

ROOT = Path(__file__).parents[2] / 'configs'
MASK_RCNN = ROOT / 'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py'
UPERNET = ROOT / 'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'
precisions = pytest.mark.parametrize('amp', ['bf16', None], ids=['bf16', 'float32'])


def take(
    subject: Subject, forms: tuple[str, ...], size: tuple[int, int], table: str, record, seconds
) -> None:
    """Measure, and add a row for each pass: times, and what they are relative to one another."""
    forms = [form for form in FORMS if form in forms]
    rows = measure(subject, forms, [size], rounds=7, limit=seconds)
    for phase in subject.passes:
        of = {row.form: row for row in rows if row.phase == phase}
        cells = {
            'network': subject.title.removeprefix('backbone '),
            'batch': subject.images(phase),
            'size': 'x'.join(map(str, size)),
            'precision': subject.device.amp or 'float32',
            'pass': phase,
        }
        cells |= {f'{form}, ms': milliseconds(row) for form, row in of.items()}
        auto = of['auto']
        for name, form in (('released', 'released'), ('softmax', 'softmax'), ('floor', 'floor')):
            if form in of and of[form].seconds:
                cells[f'{name} / auto'] = f'{of[form].median / auto.median:.2f}'
        cells |= {
            f'{form} MiB': f'{of[form].peak_bytes / 2**20:.0f}'
            for form in ('auto', 'released', 'softmax')
            if form in of and of[form].peak_bytes
        }
        record(table, **cells)
    assert not [row.error for row in rows if row.error]


def milliseconds(row: Row) -> str:
    if row.error:
        return row.error
    low, high = row.quartiles
    return f'{1e3 * row.median:.3g} ({(high - low) / row.median:.0%})'


@precisions
@pytest.mark.parametrize(
    ('channels', 'heads', 'size'), [(64, 2, (512, 512)), (64, 2, (200, 320)), (320, 10, (50, 80))]
)
def test_attention(channels, heads, size, amp, device, on_card, record):
    size = size if on_card else (24, 32)
    site = Site(channels, heads, softmax_heads=heads // 2, qkv='separate', grid=size, sr_ratio=8)
    forms = ('auto', 'graph', 'fast', 'textbook', 'released', 'softmax', 'floor')
    subject = AttentionSubject(Device(device, amp), 'inline', site, 2)
    take(subject, forms, size, 'One attention module', record, 1.0)


@precisions
@pytest.mark.parametrize('size', [(800, 1280), (512, 512)])
@pytest.mark.parametrize('name', ['inline-pvt-t', 'inline-swin-t'])
def test_backbone(name, size, amp, device, on_card, record):
    size = size if on_card else (64, 96)
    forms = ('auto', 'graph', 'fast', 'released', 'softmax', 'floor')
    subject = BackboneSubject(Device(device, amp), name, {}, 2)
    take(subject, forms, size, 'Backbones', record, 2.0)


@precisions
@pytest.mark.parametrize('path', [MASK_RCNN, UPERNET], ids=['mask-rcnn', 'upernet'])
def test_whole_model(path, amp, device, on_card, record):
    subject = ConfigSubject(
        Device(device, amp), load_config(str(path)), path.stem.partition('_8xb2')[0], 2
    )
    size = subject.default_sizes[0] if on_card else (64, 96)
    take(subject, ('auto', 'released', 'softmax'), size, 'Whole models', record, 3.0)


def test_compiled_backbone(device, on_card, record, seconds_left):
    if on_card and seconds_left() < 100:
        pytest.skip('the time is over: compiling takes longer than what is left')
    subject = BackboneSubject(Device(device, 'bf16' if on_card else None), 'inline-pvt-t', {}, 2)
    size = (800, 1280) if on_card else (64, 96)
    take(subject, ('auto', 'compile', 'softmax'), size, 'Compiled', record, 2.0)

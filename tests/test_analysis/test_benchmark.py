"""The forms that are timed compute what they should, and memory is counted right."""

import math
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import nn

from mmlab_inline import InLineAttention, InLineCSwin, InLinePVT, InLineSwin, L2ViT
from mmlab_inline.analysis.benchmark import (
    AttentionSubject,
    BackboneSubject,
    ConfigSubject,
    Device,
    KeptBytes,
    MovedBytes,
    Row,
    as_json,
    form_forwards,
    forms_of,
    measure,
    released,
    tables,
)
from mmlab_inline.analysis.benchmark.forms import _INLINE_FORMS
from mmlab_inline.engine import load_config
from mmlab_inline.mixers import Site, build_attention
from mmlab_inline.ops import InLineWeights, inline_attention_naive, token_mean
from mmlab_inline.runs import replaced
from mmlab_inline.utils import UserError

CONFIGS = Path(__file__).parents[2] / 'configs'
SHAPE = (5, 7)


@pytest.fixture(autouse=True)
def one_call_a_sample(monkeypatch):
    monkeypatch.setattr('mmlab_inline.analysis.benchmark.timing.SAMPLE_SECONDS', 0)


def mixer_and_tokens(randomised, **settings):
    mixer = randomised(InLineAttention(16, 2, **settings)).double()
    return mixer, torch.randn(3, SHAPE[0] * SHAPE[1], 16, dtype=torch.float64)


def test_a_precision_that_the_gpu_lacks(monkeypatch):
    def autocast(*args):
        raise RuntimeError('Current CUDA Device does not support bfloat16.')

    Device.asked_for('cpu', 'bf16')
    Device.asked_for('cpu', 'fp16')
    Device.asked_for('cpu', None)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch, 'autocast', autocast)
    with pytest.raises(UserError, match='--amp bf16: the GPU has no bf16; take'):
        Device.asked_for('cuda', 'bf16')


@pytest.mark.parametrize('kernel', ['identity', 'relu', 'leakyrelu', 'exp'])
@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_released_form_is_the_definition(qkv, kernel, randomised, assert_near):
    mixer, x = mixer_and_tokens(randomised, qkv=qkv, kernel=kernel)
    parameters = dict(mixer.named_parameters())
    names = ('qkv',) if qkv == 'joint' else ('q', 'kv')
    weights, biases = (
        torch.cat([parameters[f'{name}.{kind}'] for name in names]).chunk(3)
        for kind in ('weight', 'bias')
    )
    mean = token_mean(x)
    params = InLineWeights(weights, biases, mixer.num_heads, kernel)
    naive = inline_attention_naive(x, mean, SHAPE, params, mixer.residual(mean[:, 0]))
    assert_near(released(mixer, x, SHAPE), mixer.proj(naive), 1e-12)


@pytest.mark.parametrize('form', ['released', 'released-attention', 'textbook', 'fast'])
@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_forms_equal_the_module(form, qkv, randomised, assert_near):
    """Values and gradients, of the input and of every parameter."""
    mixer, x = mixer_and_tokens(randomised, qkv=qkv)
    upstream = torch.randn_like(x)

    def gradients():
        tokens = x.clone().requires_grad_()
        out = mixer(tokens, SHAPE)
        found = torch.autograd.grad((out * upstream).sum(), (tokens, *mixer.parameters()))
        return (out.detach(), *found)

    expected = gradients()
    forwards = form_forwards(mixer, form)
    assert list(forwards) == [mixer]
    with replaced(forwards):
        actual = gradients()
    assert 'forward' not in vars(mixer)
    names = ('out', 'x', *(name for name, _ in mixer.named_parameters()))
    for name, ours, theirs in zip(names, actual, expected, strict=True):
        # The key bias has no gradient: what is there is rounding noise.
        assert_near(ours, theirs, 1e-10, name, scale=float(theirs.abs().max()) + 1e-2)


@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
@pytest.mark.parametrize('attention', ['inline', 'softmax', 'vicinity'])
def test_floor_is_two_projections(cls, attention, build_narrow):
    backbone = build_narrow(cls, attention=attention).eval()
    block = (backbone.block1 if cls is InLinePVT else backbone.layers[0].blocks)[0]
    x = torch.randn(2, 12, block.attn.dim)
    linear = block.attn.qkv if cls is InLineSwin else block.attn.kv
    v = F.linear(x, linear.weight, linear.bias).chunk(3 if cls is InLineSwin else 2, dim=-1)[-1]
    with replaced(form_forwards(backbone, 'floor')):
        assert torch.allclose(block.attn(x, (3, 4)), block.attn.proj(v), atol=1e-6)
        assert len(backbone(torch.randn(1, 3, 40, 32))) == 4
    assert not any('forward' in vars(module) for module in backbone.modules())


@pytest.mark.parametrize(
    ('cls', 'attention'),
    [
        (InLineCSwin, None),
        (InLineCSwin, ('linear', 'softmax', 'softmax', 'softmax')),
        (InLineSwin, ('inline', 'inline', ('inline', 'vig'), 'softmax')),
    ],
)
def test_no_floor_of_a_part(cls, attention, build_narrow):
    backbone = build_narrow(cls, attention=attention)
    assert 'floor' not in forms_of(backbone)
    assert {'auto', 'softmax'} <= set(forms_of(backbone))
    with pytest.raises(UserError, match=r"form 'floor' is of networks .* this one has .*softmax$"):
        form_forwards(backbone, 'floor')


def test_floor_of_narrower_projections(build_narrow):
    backbone = build_narrow(L2ViT, attention='vicinity').eval()
    mixer = backbone.stages[0][0].attn
    assert mixer.proj.in_features < 8
    x = torch.randn(2, 12, 8)
    v = mixer.project(x)[2]
    with replaced(form_forwards(backbone, 'floor')):
        assert torch.allclose(mixer(x, (3, 4)), mixer.proj(v), atol=1e-6)


def test_released_form_has_a_plain_mlp(build_narrow, monkeypatch):
    monkeypatch.setattr('mmlab_inline.ops.mlp.BIG_BYTES', 0)
    streamed = []
    monkeypatch.setattr(
        'mmlab_inline.layers.mlp.streamed_mlp', lambda x, *weights: streamed.append(1) or x
    )
    backbone, image = build_narrow(InLinePVT).eval(), torch.randn(1, 3, 64, 64)
    for form in ('released', 'released-attention'):
        streamed.clear()
        with replaced(form_forwards(backbone, form)):
            backbone(image)
        assert bool(streamed) == (form != 'released')


@pytest.mark.long
def test_compiled_form(randomised, assert_near):
    mixer = randomised(InLineAttention(16, 2))
    x = torch.randn(1, SHAPE[0] * SHAPE[1], 16)
    expected = mixer(x, SHAPE)
    with replaced(form_forwards(mixer, 'compile')):
        assert_near(mixer(x, SHAPE), expected, 1e-5)


def test_forms_refuse_what_they_cannot_compute():
    windowed = InLineAttention(16, 2, window_size=7)
    with pytest.raises(UserError, match='whole maps'):
        form_forwards(windowed, 'released')
    assert form_forwards(windowed, 'auto') == {}
    with pytest.raises(UserError, match='this network has auto, softmax, floor'):
        form_forwards(build_attention('window', 16, 2), 'textbook')
    with pytest.raises(UserError, match='identity'):
        form_forwards(InLineAttention(16, 2, kernel='relu'), 'fast')


def test_kept_bytes_counts_storages_once_and_no_parameters():
    linear = nn.Linear(8, 8)
    x = torch.randn(4, 8)
    kept = KeptBytes(linear)
    with kept.counting():
        y = linear(x)  # keeps x and its own weight
        z = y * y[:2].repeat(2, 1)  # keeps both factors
        w = z.sum() + (y * 2).sum()  # keeps nothing
    w.backward()
    assert kept.total == (4 * 8 + 4 * 8 + 4 * 8) * 4


def test_moved_bytes_counts_operations_and_no_views():
    x = torch.randn(4, 8)
    with MovedBytes() as moved:
        y = x.t().unsqueeze(0).expand(5, 8, 4)[..., :2]  # views
        y = x + 1  # reads and writes 32 elements
        y.mul_(x[:1].expand(4, 8))  # reads 32 and 8, writes 32
        torch.empty(1000)
    assert moved.total == (64 + 72) * 4


def test_measured_rows():
    subject = BackboneSubject(Device(), 'inline-pvt-t', {'out_indices': (0,)}, batch=2)
    told = []
    sizes = [(16, 16), (16, 32)]
    forms = ['released', 'auto', 'floor']
    rows = measure(subject, forms, sizes, 4, 60.0, lambda text, done: told.append(done))
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] < 1
    cells = [(size, phase, form) for size in sizes for phase in subject.passes for form in forms]
    assert [(row.size, row.phase, row.form) for row in rows] == cells
    for row in rows:
        assert len(row.seconds) == 4
        assert min(row.seconds) > 0
        low, high = row.quartiles
        assert min(row.seconds) <= low <= row.median <= high <= max(row.seconds)
        assert (row.kept_bytes is None) == (row.phase == 'forward')
        assert row.moved_bytes > 0
        compared = row.phase == 'forward' and row.form == 'released'
        assert (row.difference is None) != compared
        assert not compared or row.difference < 1e-5
    report = as_json(subject, rows, {}, 'command')
    released_row, auto = report['rows'][:2]
    assert auto['times_released'] == pytest.approx(released_row['median'] / auto['median'])
    assert auto['rate'] == pytest.approx(2 / auto['median'])
    assert len(report['growth']) == len(forms) * len(subject.passes)
    assert all(line['pixels'] == 2 for line in report['growth'])
    assert len(list(tables(subject, rows))) == 5


def test_rounds_stop_at_the_limit():
    subject = AttentionSubject(Device(), 'inline', Site(8, 2), batch=1)
    rows = measure(subject, ['auto'], [(4, 4)], 1000, 0.0)
    assert [len(row.seconds) for row in rows] == [3, 3]


def test_failing_form_does_not_stop_the_others(monkeypatch):
    subject = AttentionSubject(Device(), 'inline', Site(8, 2), batch=1)

    def fail(*args):
        raise RuntimeError('no such kernel\nand more')

    monkeypatch.setitem(_INLINE_FORMS, 'fast', fail)
    rows = measure(subject, ['fast', 'auto'], [(4, 4)], 1, 60.0)
    assert [row.error for row in rows] == ['RuntimeError: no such kernel', None] * 2
    assert math.isnan(rows[0].median)
    report = as_json(subject, rows, {}, 'command')
    assert report['rows'][0]['median'] is None
    assert 'NaN' not in str(report)
    assert len(list(tables(subject, rows))) == 2
    with pytest.raises(UserError, match='no such kernel'):
        measure(subject, ['fast'], [(4, 4)], 1, 60.0)


@pytest.mark.parametrize('qkv', ['separate', 'joint'])
def test_softmax_twin_of_one_module(qkv):
    subject = AttentionSubject(
        Device(),
        'inline',
        Site(
            64, 2, 2 if qkv == 'joint' else 1, qkv, sr_ratio=8, window=7 if qkv == 'joint' else None
        ),
        batch=1,
    )
    twin = subject.model('softmax')
    assert twin.num_heads == (1 if qkv == 'separate' else 2)
    assert (
        type(twin).__name__
        == {
            'separate': 'SpatialReductionAttention',
            'joint': 'WindowAttention',
        }[qkv]
    )


def test_softmax_twin_of_a_backbone_is_pvt():
    twin = BackboneSubject(Device(), 'inline-pvt-t', {}, batch=1).model('softmax')
    heads = [getattr(twin, f'block{stage}')[0].attn.num_heads for stage in (1, 2, 3, 4)]
    assert heads == [1, 2, 5, 8]
    assert all(block.drop_path.drop_prob == 0 for block in twin.block4)


def test_config_needs_an_inline_backbone():
    with pytest.raises(UserError, match='no model'):
        ConfigSubject(Device(), Config(dict(default_scope='mmseg')), 'x', None)
    cfg = Config(dict(default_scope='mmdet', model=dict(backbone=dict(type='ResNet'))))
    with pytest.raises(UserError, match='ResNet has no forms'):
        ConfigSubject(Device(), cfg, 'x', None)


@pytest.mark.parametrize(
    'name', ['mask-rcnn_inline-pvt-demo_shapes', 'sem-fpn_inline-swin-demo_shapes']
)
def test_config_passes(name):
    """An iteration trains, but at rate 0; a prediction has as many boxes as may be kept."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    cfg = load_config(str(CONFIGS / f'demo/{name}.py'))
    subject = ConfigSubject(Device(), cfg, name, batch=None)
    assert subject.default_sizes == ((160, 160),)
    assert [subject.images(phase) for phase in subject.passes] == [1, 8]

    subject = ConfigSubject(Device(), cfg, name, batch=2)
    model = subject.model()
    before = {key: value.clone() for key, value in model.named_parameters()}
    run = subject.prepare(model, 'training', (64, 64))
    kept = KeptBytes(model)
    with kept.counting():
        run()
    assert model.training
    assert kept.total > 1e6
    assert all(torch.equal(value, before[key]) for key, value in model.named_parameters())

    samples = []
    model.register_forward_hook(lambda module, args, out: samples.extend(out))
    subject.prepare(model, 'inference', (64, 64))()
    assert not model.training
    (sample,) = samples
    if subject.scope == 'mmdet':
        assert len(sample.pred_instances) == cfg.model.test_cfg.rcnn.max_per_img
        assert sample.pred_instances.masks.shape[1:] == (64, 64)
    else:
        assert sample.pred_sem_seg.shape == (64, 64)


def test_row_without_samples():
    row = Row((1, 1), 'forward', 'auto', [])
    assert math.isnan(row.median)


def test_graph_is_captured_after_warming_up(monkeypatch):
    """The calls of torch.cuda, on a machine without a GPU."""
    happened = []

    class Graph:
        def replay(self):
            happened.append('replay')

    class Stream:
        def wait_stream(self, other):
            happened.append('wait')

    @contextmanager
    def capture(graph):
        assert isinstance(graph, Graph)
        happened.append('capture')
        yield
        happened.append('captured')

    def call():
        happened.append('call')
        return object()

    for name, value in {
        'CUDAGraph': Graph,
        'Stream': Stream,
        'current_stream': Stream,
        'stream': lambda stream: nullcontext(),
        'graph': capture,
        'reset_peak_memory_stats': lambda: None,
        'memory_allocated': lambda: 3,
        'max_memory_allocated': lambda: 10,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    run, peak = Device('cuda').captured(call)
    assert peak == 7
    assert happened == ['wait', *['call'] * 3, 'wait', 'capture', 'call', 'captured']
    happened.clear()
    assert run() is run()
    assert happened == ['replay'] * 2


def test_graph_is_refused_where_there_is_none(build_narrow):
    model = build_narrow(InLinePVT)
    with pytest.raises(UserError, match='needs --device cuda'):
        form_forwards(model, 'graph')
    whole = nn.Module()
    whole.backbone = model
    with pytest.raises(UserError, match='of a backbone or a module'):
        form_forwards(whole, 'graph')

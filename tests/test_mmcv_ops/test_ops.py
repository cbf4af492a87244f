"""mmcv's ops as they are served from torchvision and PyTorch."""

import itertools
import math

import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from safetensors.torch import load_file
from torch.autograd import gradcheck
from torch.nn.modules.utils import _pair
from torchvision.ops import box_iou

from . import values

pytestmark = pytest.mark.usefixtures('served')

HALF = [torch.float16, torch.bfloat16]
# What is computed in another order than by the compiled ops; everything else has the same bits.
TOLERANCES = {torch.float32: 3e-6, torch.float64: 1e-14}


@pytest.fixture(scope='module')
def stored():
    return load_file(values.PATH)


def part(stored, prefix):
    return {key[len(prefix) :]: t for key, t in stored.items() if key.startswith(prefix)}


def is_exact(case, name):
    if case.startswith('deform_conv'):
        return name.endswith('result')
    return 'gaussian' not in name or name.startswith('kept')


@pytest.mark.parametrize('case', values.CASES)
def test_results_of_the_compiled_ops(stored, assert_near, case):
    expected = part(stored, f'{case}/out/')
    found = values.CASES[case][1](**part(stored, f'{case}/in/'))
    assert found.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        if is_exact(case, name):
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
        else:
            # The score of a box may not be a number.
            actual, tensor = found[name].nan_to_num(9), tensor.nan_to_num(9)
            assert_near(actual, tensor, TOLERANCES[tensor.dtype], name)


ON_CUDA = [
    case
    for case in values.CASES
    if case.startswith(('roi', 'deform', 'nms.drawn')) and not case.endswith('.0')
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('case', ON_CUDA)
def test_results_on_cuda(stored, assert_near, case):
    """Without overlaps exactly at the threshold, which CUDA kernels compare in another form."""
    inputs = {name: tensor.cuda() for name, tensor in part(stored, f'{case}/in/').items()}
    found = values.CASES[case][1](**inputs)
    for name, expected in part(stored, f'{case}/out/').items():
        assert found[name].is_cuda
        if expected.is_floating_point():
            assert_near(found[name].cpu(), expected, 4 * TOLERANCES[expected.dtype], name)
        else:
            assert torch.equal(found[name].cpu(), expected)


@pytest.mark.parametrize('size', [0, 1])
def test_no_boxes_and_no_rois(size):
    """Images without proposals are common."""
    maps = torch.rand(2, 3, 8, 8, requires_grad=True)
    rois = torch.tensor([[1, 0.0, 0, 4, 4]])[:size]
    pooled = ops.roi_align(maps, rois, 2)
    assert pooled.shape == (size, 3, 2, 2)
    pooled.sum().backward()
    assert maps.grad.any() == bool(size)
    dets, kept = ops.nms(rois[:, 1:], torch.ones(size), 0.5)
    assert dets.shape == (size, 5) and kept.shape == (size,)


def test_cases_meet_what_is_hard(stored):
    """Equal scores, scores that are no numbers, empty boxes; overlaps exactly at the threshold."""
    boxes, scores = part(stored, 'nms.odd.60/in/').values()
    assert len(scores.unique()) < len(scores) and scores.isnan().any()
    assert (boxes[:, 2:] == boxes[:, :2]).all(dim=1).any()
    boxes = part(stored, 'nms.grid.60/in/')['boxes']
    assert any((box_iou(boxes, boxes) == threshold).any() for threshold in (0.25, 0.5))


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_at_the_very_overlap(offset):
    """Of two boxes whose overlap is the threshold, as mmcv rounds it, both are kept."""
    corners = 20 * torch.rand(300, 2, 2)
    boxes = torch.cat((corners, corners + 20 * torch.rand(300, 2, 2)), dim=2)
    first, second = boxes.unbind(1)
    sides = torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])
    inter = (sides + offset).clamp(min=0).prod(1)
    one, other = ((b[:, 2:] - b[:, :2] + offset).prod(1) for b in (first, second))
    overlaps = inter / (one + other - inter)
    assert (overlaps > 0).sum() > 100
    for pair, overlap in zip(boxes, overlaps.tolist(), strict=True):
        assert len(ops.nms(pair, torch.tensor([0.9, 0.8]), overlap, offset=offset)[1]) == 2
        if overlap:
            below = overlap * (1 - 1e-6)
            assert len(ops.nms(pair, torch.tensor([0.9, 0.8]), below, offset=offset)[1]) == 1


def test_soft_nms_takes_the_best_score_whatever_it_is():
    boxes = torch.tensor([[0.0, 0, 1, 1]]) + 9 * torch.arange(4)[:, None]
    largest = torch.finfo(torch.float32).max
    _, kept = ops.soft_nms(boxes, torch.tensor([0.5, largest, torch.inf, torch.nan]))
    assert kept.tolist() == [2, 1, 0, 3]
    low = torch.tensor([-torch.inf, torch.nan, -largest])
    _, kept = ops.soft_nms(boxes[:3], low, min_score=-torch.inf)
    assert kept.tolist() == [2, 1, 0]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_roi_align_of_channels_last_maps(stored, dtype):
    inputs = part(stored, f'roi_align.{str(dtype)[-2:]}/in/')
    expected = values.run_roi_align(**inputs)
    inputs['input'] = inputs['input'].to(memory_format=torch.channels_last)
    for name, tensor in values.run_roi_align(**inputs).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_computed_in_float32(stored, assert_near, dtype):
    """Only inputs and results are rounded."""
    tolerance = 2 * torch.finfo(dtype).eps
    for case, run in (
        ('roi_align.32', values.run_roi_align),
        ('deform_conv.grouped.32', values.CASES['deform_conv.grouped.32'][1]),
    ):
        half = {name: t.to(dtype) for name, t in part(stored, f'{case}/in/').items()}
        expected = run(**{name: tensor.float() for name, tensor in half.items()})
        for name, tensor in run(**half).items():
            assert tensor.dtype == dtype
            assert_near(tensor, expected[name], tolerance, f'{case} {name}')


@pytest.mark.parametrize('dtype', HALF)
def test_nms_of_half_precision(stored, dtype):
    boxes, scores = (t.to(dtype) for t in part(stored, 'nms.grid.60/in/').values())
    _, kept = ops.nms(boxes, scores, 0.5)
    assert torch.equal(kept, ops.nms(boxes.float(), scores.float(), 0.5)[1])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({1: 50.0, 3: 40.0}, 'negative width'),
        ({1: torch.nan}, 'not finite'),
        ({3: torch.inf}, 'not finite'),
    ],
)
def test_roi_that_is_none(change, message):
    rois = torch.tensor([[0, 1.0, 1, 9, 9]])
    for column, value in change.items():
        rois[0, column] = value
    with pytest.raises(ValueError, match=message):
        ops.roi_align(torch.rand(1, 1, 8, 8), rois, 2)


def sigmoid_loss(pred, target, gamma, alpha, weight):
    """The definition."""
    positive = torch.nn.functional.one_hot(target, pred.shape[1] + 1)[:, :-1].bool()
    p = pred.sigmoid()
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * p.log(),
        -(1 - alpha) * p**gamma * (1 - p).log(),
    )
    return loss if weight is None else loss * weight[target][:, None]


def softmax_loss(pred, target, gamma, alpha, weight):
    """The definition; a negative target counts for nothing."""
    known = target.clamp(min=0)
    p = pred.softmax(1).gather(1, known[:, None])[:, 0]
    loss = torch.where(target >= 0, -alpha * (1 - p) ** gamma * p.log(), 0)
    return loss if weight is None else loss * weight[known]


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.75)])
@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss(assert_near, kind, gamma, alpha, weighted):
    op, definition, targets = {
        'sigmoid': (ops.sigmoid_focal_loss, sigmoid_loss, [0, 3, 1, 2, 4, 4]),
        'softmax': (ops.softmax_focal_loss, softmax_loss, [0, 3, 1, 2, -1, 3]),
    }[kind]
    pred = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weight, target = None, torch.tensor(targets)
    if weighted:
        weight = torch.rand(5 if kind == 'sigmoid' else 4, dtype=torch.float64)[:4]
        target = target.clamp(max=3)  # mmcv has no weight for the background
    # Summed: mmcv takes a cotangent of single losses wrong with softmax, of shape (N,) for (N, C).
    actual = op(pred, target, gamma, alpha, weight, 'sum')
    expected = definition(pred, target, gamma, alpha, weight).sum()
    assert_near(actual, expected, 1e-6)  # alpha is a float32 in mmcv
    assert_near(*(torch.autograd.grad(loss, pred)[0] for loss in (actual, expected)), 1e-6)
    single = op(pred, target, gamma, alpha, weight, 'none')
    assert_near(single, definition(pred, target, gamma, alpha, weight), 1e-6)


@pytest.mark.parametrize('kind', ['sigmoid', 'softmax'])
def test_focal_loss_of_sure_predictions_is_finite(kind):
    """A probability of exactly 1 or 0, with every power."""
    pred = torch.tensor([[200.0, -200], [200, -200]], requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        loss = getattr(ops, f'{kind}_focal_loss')(pred, torch.tensor([0, 1]), gamma, 0.5)
        (grad,) = torch.autograd.grad(loss, pred)
        assert loss.isfinite() and grad.isfinite().all()


SHAPES = torch.tensor([[5, 4], [2, 3]])


def draw_deform_attn(dtype):
    value = torch.randn(2, 26, 2, 3)
    locations = torch.rand(2, 7, 2, 2, 3, 2) * 1.6 - 0.3  # some outside of the map
    weights = torch.rand(2, 7, 2, 2, 3)
    return [tensor.to(dtype) for tensor in (value, locations, weights)]


def deform_attn(value, locations, weights):
    starts = torch.tensor([0, 20])
    return MultiScaleDeformableAttnFunction.apply(value, SHAPES, starts, locations, weights, 64)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_deformable_attention_is_mmcvs_python_form(assert_near, dtype):
    results = []
    for function in (
        deform_attn,
        lambda value, *rest: multi_scale_deformable_attn_pytorch(value, SHAPES, *rest),
    ):
        torch.manual_seed(1)
        leaves = [tensor.requires_grad_() for tensor in draw_deform_attn(dtype)]
        output = function(*leaves)
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        assert_near(actual, expected, TOLERANCES[dtype])


@pytest.mark.parametrize('dtype', HALF)
def test_deformable_attention_of_half_precision(assert_near, dtype):
    tensors = draw_deform_attn(dtype)
    output = deform_attn(*tensors)
    assert output.dtype == dtype
    expected = deform_attn(*(tensor.float() for tensor in tensors))
    assert_near(output, expected, 2 * torch.finfo(dtype).eps)


def leaves(*tensors):
    return [tensor.double().requires_grad_() for tensor in tensors]


GRADIENTS = {
    'roi_align': lambda: (
        lambda x: ops.roi_align(x, ROIS, (2, 3), 0.5, 2, 'avg', True),
        leaves(torch.randn(2, 2, 6, 5)),
    ),
    'roi_align, adaptive': lambda: (
        lambda x: ops.roi_align(x, ROIS, (2, 3), 0.5, 0, 'avg', False),
        leaves(torch.randn(2, 2, 6, 5)),
    ),
    'sigmoid_focal_loss': lambda: (
        lambda x: ops.sigmoid_focal_loss(x, torch.tensor([0, 2, 3]), 1.5, 0.25, None, 'none'),
        leaves(torch.randn(3, 3)),
    ),
    'softmax_focal_loss': lambda: (
        lambda x: ops.softmax_focal_loss(x, torch.tensor([0, 2, -1]), 1.5, 0.25, None, 'sum'),
        leaves(torch.randn(3, 3)),
    ),
    'deformable attention': lambda: (deform_attn, leaves(*draw_deform_attn(torch.float64))),
    'deform_conv': lambda: (
        lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, 1, 1, 1, 2, 2),
        leaves(torch.randn(1, 4, 3, 4), torch.randn(1, 16, 4, 5), torch.randn(2, 2, 2, 2)),
    ),
    'modulated_deform_conv': lambda: (
        lambda *tensors: ops.modulated_deform_conv2d(*tensors, 1, 1, 1, 1, 2),
        leaves(
            torch.randn(1, 2, 3, 4),
            torch.randn(1, 16, 4, 5),
            torch.rand(1, 8, 4, 5),
            torch.randn(3, 2, 2, 2),
            torch.randn(3),
        ),
    ),
}
ROIS = torch.tensor([[0, 0.3, 0.7, 7.1, 9.2], [1, 2.2, 1.1, 5.3, 4.6]], dtype=torch.float64)


@pytest.mark.parametrize('name', GRADIENTS)
def test_gradients_against_finite_differences(name):
    function, inputs = GRADIENTS[name]()
    assert gradcheck(function, inputs)


@pytest.mark.parametrize('wrong', [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize('layer', [ops.DeformConv2dPack, ops.ModulatedDeformConv2dPack])
@pytest.mark.parametrize('size', [24, 25, 32])
def test_deformable_convolution_at_a_place_that_is_no_number(layer, size, wrong):
    """A diverged run is to show a loss that is no number, not to end by a signal."""
    layer = layer(8, 8, 3, padding=1)
    x = torch.rand(1, 8, size, size)
    x[0, 0, 12, 12] = wrong
    out = layer(x.requires_grad_())
    out.sum().backward()
    assert not out[..., 9:16, 9:16].isfinite().all()
    assert out[..., :8].isfinite().all()


def test_samples_at_no_place_are_zero():
    x, weight = torch.rand(1, 2, 8, 8), torch.rand(3, 2, 1, 1)
    offset = torch.zeros(1, 2, 8, 8)
    offset[0, 0, 3], offset[0, 1, :, 5] = torch.nan, torch.inf
    expected = torch.nn.functional.conv2d(x, weight)
    expected[:, :, 3], expected[..., 5] = 0, 0
    x, offset, weight = (t.requires_grad_() for t in (x, offset, weight))
    out = ops.deform_conv2d(x, offset, weight)
    torch.testing.assert_close(out, expected)
    gradients = torch.autograd.grad(out.sum(), (x, offset, weight))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize(
    ('stride', 'padding', 'dilation', 'kernel'), [(1, 1, 1, 3), (2, (3, 1), 2, (3, 2))]
)
@pytest.mark.parametrize('groups', [1, 2])
def test_samples_at_exactly_minus_1_have_no_gradient(
    assert_near, modulated, stride, padding, dilation, kernel, groups
):
    """mmcv takes them for outside; beside, the derivative is that of the inner side."""
    x, weight = torch.randn(2, 2, 6, 7).double(), torch.randn(3, 2, *_pair(kernel)).double()
    settings = stride, padding, dilation, 1, groups

    def gradients(shift):
        out = torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation)
        taps = groups * math.prod(_pair(kernel))
        offset = torch.full((2, 2 * taps, *out.shape[2:]), shift, dtype=torch.float64)
        mask = torch.ones(2, taps, *out.shape[2:], dtype=torch.float64)
        leaves = [t.clone().requires_grad_() for t in (x, offset, weight, mask)]
        if modulated:
            out = ops.modulated_deform_conv2d(*leaves[:2], leaves[3], leaves[2], None, *settings)
        else:
            out = ops.deform_conv2d(*leaves[:3], *settings)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return [leaf.grad for leaf in (leaves if modulated else leaves[:3])]

    at, beside = gradients(0.0), gradients(1e-9)
    at_edge = _samples_at_edge(at[1], kernel, stride, padding, dilation)
    assert at_edge.any() and not at_edge.all()
    assert not at[1][at_edge].any() and beside[1][at_edge].any()
    beside[1][at_edge] = 0
    for actual, expected in zip(at, beside, strict=True):
        assert_near(actual, expected, 1e-6)


def _samples_at_edge(offset, kernel, stride, padding, dilation):
    """Loops over all samples of the map without offsets."""
    at_edge = torch.zeros_like(offset, dtype=torch.bool)
    (tall, wide), (top, left) = _pair(kernel), _pair(padding)
    for channel, row, column in itertools.product(*map(range, offset.shape[1:])):
        tap = channel // 2 % (tall * wide)
        y = row * stride - top + tap // wide * dilation
        x = column * stride - left + tap % wide * dilation
        at_edge[:, channel, row, column] = -1 in (y, x)
    return at_edge


def test_offsets_of_a_bigger_map_are_read_as_mmcv_reads_them():
    """One after another from the first on, whatever their rows: DyHead has such."""
    x, weight = torch.randn(2, 2, 4, 5).double(), torch.randn(3, 2, 3, 3).double()
    offset, mask = torch.randn(2, 18, 8, 10).double(), torch.rand(2, 9, 8, 10).double()
    own = [
        torch.stack([t.reshape(-1)[: c * 20].reshape(c, 4, 5) for t in places])
        for places, c in ((offset, 18), (mask, 9))
    ]
    expected = ops.modulated_deform_conv2d(x, *own, weight, None, 1, 1)
    assert torch.equal(ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1), expected)

    def function(*tensors):
        return ops.modulated_deform_conv2d(*tensors, None, 1, 1)

    assert gradcheck(function, leaves(x[:1], offset[:1], mask[:1], weight))
    with pytest.raises(ValueError, match=r'too few offsets or masks for an output of \(4, 5\)'):
        function(x, offset[..., :2], mask, weight)


@pytest.mark.filterwarnings('ignore')  # of mmcv's own layers
def test_dyhead():
    necks = pytest.importorskip('mmdet.models.necks')
    maps = [torch.randn(1, 16, size, size, requires_grad=True) for size in (16, 8, 4)]
    outs = necks.DyHead(16, 16, num_blocks=1)(maps)
    sum(out.sum() for out in outs).backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in maps)


def test_focal_loss_of_infinite_logits():
    logits = torch.tensor([[9.0, -torch.inf, torch.inf], [-torch.inf, torch.inf, -9.0]])
    logits.requires_grad_()
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1, 2]), 2.0, 0.25, None, 'none')
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all() and gradient.isfinite().all()
    # alpha where the class is missed, 1 - alpha where it is seen and is not there.
    assert gradient[0].tolist() == pytest.approx([0.75, -0.25, 0.75], abs=0.01)
    assert gradient[1].tolist() == pytest.approx([0, 0.75, -0.25], abs=0.01)


def test_focal_loss_weighs_no_background():
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
    plain, weighed = (
        ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'none')
        for weight in (None, torch.tensor([1.0, 2.0, 3.0]))
    )
    torch.testing.assert_close(weighed, plain * torch.tensor([1.0, 2.0, 3.0, 1.0])[:, None])


class OnCuda(torch.Tensor):
    """A tensor of the CPU that says it is on a GPU, and so does all that is computed from it."""

    is_cuda = True


@pytest.mark.parametrize('weighted', [False, True])
def test_path_of_mmdets_focal_loss_on_cuda(monkeypatch, ext, assert_near, weighted):
    losses = pytest.importorskip('mmdet.models.losses')
    called = []
    forward = ext.sigmoid_focal_loss_forward
    monkeypatch.setattr(
        ext, 'sigmoid_focal_loss_forward', lambda *a, **k: called.append(1) or forward(*a, **k)
    )
    pred, target = torch.randn(9, 5, requires_grad=True), torch.randint(0, 6, (9,))
    weight = torch.rand(9) if weighted else None
    loss = losses.FocalLoss(gamma=2.0, alpha=0.25)
    expected = loss(pred, target, weight, avg_factor=4)
    (expected_grad,) = torch.autograd.grad(expected, pred)
    assert not called
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    actual = loss(pred.as_subclass(OnCuda), target, weight, avg_factor=4)
    assert called
    assert_near(actual.as_subclass(torch.Tensor), expected, 1e-6)
    (grad,) = torch.autograd.grad(actual, pred)
    assert_near(grad, expected_grad, 1e-6)


def test_path_of_mmcvs_deformable_attention_on_cuda(monkeypatch, ext, assert_near):
    from mmcv.ops import multi_scale_deform_attn as module

    called = []
    for name in ('ms_deform_attn_forward', 'ms_deform_attn_backward'):
        served = getattr(ext, name)
        monkeypatch.setattr(
            ext, name, lambda *a, s=served, n=name, **k: called.append(n) or s(*a, **k)
        )
    layer = ops.MultiScaleDeformableAttention(embed_dims=16, num_heads=4, num_levels=2)
    torch.nn.init.normal_(layer.eval().sampling_offsets.weight, std=0.5)
    query, value = torch.randn(7, 2, 16), torch.randn(26, 2, 16)
    points = torch.rand(2, 7, 2, 2)
    results = []
    for cls in (torch.Tensor, OnCuda):
        monkeypatch.setattr(module, 'IS_CUDA_AVAILABLE', cls is OnCuda)
        output = layer(
            query,
            value=value.as_subclass(cls),
            reference_points=points,
            spatial_shapes=SHAPES,
            level_start_index=torch.tensor([0, 20]),
        )
        grads = torch.autograd.grad(output.square().sum(), list(layer.parameters()))
        results.append([output.as_subclass(torch.Tensor), *grads])
        assert len(called) == (2 if cls is OnCuda else 0)
    for actual, expected in zip(*results, strict=True):
        assert_near(actual.as_subclass(torch.Tensor), expected, 1e-5)

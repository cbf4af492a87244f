"""mmcv's ops on the card, as mmcv_ops serves them, against the same on the CPU."""

import pytest
import torch
from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from torch import Tensor


def boxes(count: int) -> Tensor:
    corner = torch.rand(count, 2) * 400
    return torch.cat((corner, corner + torch.rand(count, 2) * 100), dim=1)


def with_gradients(op, device: str, dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    leaves = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in tensors]
    result = op(*leaves)
    cotangent = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).view(result.shape)
    result.backward(cotangent.to(result))
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def roi_align(maps: Tensor) -> Tensor:
    rois = torch.cat((torch.arange(60)[:, None] % 2, boxes(60)), dim=1)
    return ops.roi_align(maps, rois.to(maps.device), (7, 7), 0.25, 0, 'avg', True)


def roi_align_last(maps: Tensor) -> Tensor:
    return roi_align(maps.contiguous(memory_format=torch.channels_last))


def deform_conv(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    return ops.deform_conv2d(x, offset, weight, 1, 1, 1, 2, 2)


def modulated_deform_conv(x, offset, mask, weight, bias) -> Tensor:
    return ops.modulated_deform_conv2d(x, offset, mask.sigmoid(), weight, bias, 1, 1, 1, 2, 2)


def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    shapes = torch.tensor([[20, 30], [10, 15]], device=value.device)
    starts = torch.tensor([0, 600], device=value.device)
    return MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)


def sigmoid_focal(pred: Tensor) -> Tensor:
    target = (torch.arange(len(pred)) % (pred.shape[1] + 1)).to(pred.device)
    return ops.sigmoid_focal_loss(pred, target, 2.0, 0.25, None, 'none')


def softmax_focal(pred: Tensor) -> Tensor:
    target = (torch.arange(len(pred)) % pred.shape[1]).to(pred.device)
    return ops.softmax_focal_loss(pred, target, 2.0, 0.25, None, 'sum')


OPS = {
    'roi_align': (roi_align, [(2, 32, 100, 120)]),
    'roi_align, channels last': (roi_align_last, [(2, 32, 100, 120)]),
    'deform_conv': (deform_conv, [(2, 16, 20, 24), (2, 36, 20, 24), (8, 8, 3, 3)]),
    'modulated_deform_conv': (
        modulated_deform_conv,
        [(2, 16, 20, 24), (2, 36, 20, 24), (2, 18, 20, 24), (8, 8, 3, 3), (8,)],
    ),
    'ms_deform_attn': (attend, [(2, 750, 4, 16), (2, 90, 4, 2, 4, 2), (2, 90, 4, 2, 4)]),
    'sigmoid_focal_loss': (sigmoid_focal, [(500, 80)]),
    'softmax_focal_loss': (softmax_focal, [(500, 80)]),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', OPS)
def test_results_and_gradients(name, dtype, device, record):
    op, shapes = OPS[name]
    if 'focal' in name and dtype not in (torch.float32, torch.float64):
        pytest.skip('mmdet casts to float32')
    torch.manual_seed(0)
    # Values that the type holds: the same inputs on both sides. Offsets are not at whole pixels,
    # where the gradient jumps.
    tensors = [torch.randn(shape).to(dtype).double() for shape in shapes]
    if name == 'ms_deform_attn':
        tensors[1] = torch.rand(shapes[1]).to(dtype).double()
    torch.manual_seed(1)
    expected = with_gradients(op, 'cpu', torch.float64, *tensors)
    torch.manual_seed(1)
    found = with_gradients(op, device, dtype, *tensors)
    largest = 0.0
    for actual, exact in zip(found, expected, strict=True):
        assert actual.dtype is dtype and actual.device.type == device
        difference = (actual.double().cpu() - exact).abs().max() / exact.abs().max()
        largest = max(largest, float(difference))
    record(
        "mmcv's ops and their gradients against float64 on the CPU",
        op=name,
        dtype=str(dtype)[6:],
        error=f'{largest:.0e}',
    )
    assert largest < TOLERANCES[dtype]


@pytest.mark.parametrize('op', ['nms', 'batched_nms', 'soft_nms'])
def test_kept_boxes(op, device):
    torch.manual_seed(0)
    drawn, scores, kinds = boxes(2000), torch.rand(2000), torch.arange(2000) % 3
    results = []
    for place in ('cpu', device):
        given = drawn.to(place), scores.to(place)
        if op == 'batched_nms':
            dets, kept = ops.batched_nms(
                *given, kinds.to(place), dict(type='nms', iou_threshold=0.5)
            )
        else:
            dets, kept = getattr(ops, op)(*given, 0.5)
        assert dets.device.type == place
        results.append((dets.cpu(), kept.cpu()))
    assert torch.equal(results[0][1], results[1][1])
    torch.testing.assert_close(results[0][0][:, 4], results[1][0][:, 4])

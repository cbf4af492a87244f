"""Inputs of mmcv's ops, and what its compiled ops make of them.

    python tests/test_mmcv_ops/values.py

writes tests/data/mmcv_ops.safetensors, in an environment with a compiled mmcv. The tests read the
inputs from there too, so that they do not depend on how PyTorch draws random numbers.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from mmcv import ops
from safetensors.torch import save_file
from torch import Tensor

PATH = Path(__file__).parents[1] / 'data' / 'mmcv_ops.safetensors'
Tensors = dict[str, Tensor]

# Name of a case: inputs drawn, and the op called on them.
CASES: dict[str, tuple[Callable[[], Tensors], Callable[..., Tensors]]] = {}


def case(name: str, draw: Callable[[], Tensors], run: Callable[..., Tensors]) -> None:
    CASES[name] = draw, run


def with_gradients(op: Callable[..., Tensor], **tensors: Tensor) -> Tensors:
    """Result of an op, and the gradients of its weighted sum."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    result = op(**leaves)
    cotangent = torch.linspace(-1, 1, result.numel(), dtype=torch.float64).to(result)
    result.backward(cotangent.view_as(result))
    return {
        'result': result.detach(),
        **{f'grad.{name}': leaf.grad for name, leaf in leaves.items()},
    }


def draw_boxes(count: int, kind: str) -> Tensors:
    """Boxes that overlap; on a grid, scores are equal and overlaps at the threshold exactly."""
    corner, size = torch.rand(count, 2) * 60, torch.rand(count, 2) * 40
    scores = torch.rand(count)
    if kind != 'drawn':
        corner, size = (corner / 10).round() * 10, (size / 10).round() * 10
        scores = (scores * 8).round() / 8
    if kind == 'odd' and count:
        size[::5] = 0
        scores[3::7] = torch.nan
    return {'boxes': torch.cat((corner, corner + size), dim=1), 'scores': scores}


def run_nms(boxes: Tensor, scores: Tensor) -> Tensors:
    results = {}
    for offset in (0, 1):
        for threshold in (0.25, 1 / 3, 0.5, 0.7):
            dets, kept = ops.nms(boxes, scores, threshold, offset=offset)
            results[f'kept.{offset}.{threshold:.2f}'] = kept
            results[f'dets.{offset}.{threshold:.2f}'] = dets
    return results


def run_soft_nms(boxes: Tensor, scores: Tensor) -> Tensors:
    results = {}
    for method in ('naive', 'linear', 'gaussian'):
        for offset, min_score in ((0, 1e-3), (1, 0.2)):
            dets, kept = ops.soft_nms(
                boxes, scores, 0.3, method=method, offset=offset, min_score=min_score
            )
            results[f'kept.{method}.{offset}'], results[f'dets.{method}.{offset}'] = kept, dets
    return results


for kind in ('drawn', 'grid', 'odd'):
    for count in (0, 1, 60):
        case(f'nms.{kind}.{count}', lambda c=count, k=kind: draw_boxes(c, k), run_nms)
    case(f'soft_nms.{kind}', lambda k=kind: draw_boxes(40, k), run_soft_nms)


def draw_rois(dtype: torch.dtype) -> Tensors:
    corner, size = torch.rand(12, 2) * 80 - 10, torch.rand(12, 2) * 60
    size[0] = 0
    rois = torch.cat((torch.arange(12)[:, None] % 2, corner, corner + size), dim=1)
    return {'input': torch.randn(2, 3, 11, 13).to(dtype), 'rois': rois.to(dtype)}


def run_roi_align(input: Tensor, rois: Tensor) -> Tensors:
    results = {}
    # 1/7.3 is no float32: mmcv's kernels receive it rounded.
    for scale, ratio, aligned in ((0.25, 0, True), (0.25, 2, False), (1 / 7.3, 3, True)):
        named = with_gradients(
            lambda input, s=scale, r=ratio, a=aligned: ops.roi_align(
                input, rois, (3, 2), s, r, 'avg', a
            ),
            input=input,
        )
        results |= {f'{ratio}.{name}': tensor for name, tensor in named.items()}
    return results


GEOMETRIES = {
    'plain': {'channels': (4, 3), 'kernel': (3, 3), 'deform_groups': 1},
    'grouped': {
        'channels': (8, 4),
        'kernel': (3, 2),
        'deform_groups': 4,
        'stride': (2, 1),
        'padding': (1, 0),
        'dilation': (1, 2),
        'groups': 2,
    },
}


def draw_conv(dtype: torch.dtype, channels: tuple, kernel: tuple, deform_groups: int, **settings):
    """Offsets of up to several pixels: many samples lie outside of the map."""
    stride, padding, dilation = (
        settings.get(key, default)
        for key, default in (('stride', (1, 1)), ('padding', (0, 0)), ('dilation', (1, 1)))
    )
    size = [
        (extent + 2 * p - d * (k - 1) - 1) // s + 1
        for extent, k, s, p, d in zip((6, 7), kernel, stride, padding, dilation, strict=True)
    ]
    points = deform_groups * kernel[0] * kernel[1]
    tensors = {
        'input': torch.randn(2, channels[0], 6, 7),
        'offset': torch.randn(2, 2 * points, *size) * 2,
        'mask': torch.rand(2, points, *size),
        'weight': torch.randn(channels[1], channels[0] // settings.get('groups', 1), *kernel),
        'bias': torch.randn(channels[1]),
    }
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def run_conv(geometry: dict, input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias):
    settings = [
        geometry.get(key, default)
        for key, default in (('stride', 1), ('padding', 0), ('dilation', 1), ('groups', 1))
    ]
    settings.append(geometry['deform_groups'])
    shared = {'input': input, 'offset': offset, 'weight': weight}

    def first(input, offset, weight):
        return ops.deform_conv2d(input, offset, weight, *settings)

    def second(input, offset, mask, weight, bias=None):
        return ops.modulated_deform_conv2d(input, offset, mask, weight, bias, *settings)

    runs = {
        'v1': with_gradients(first, **shared),
        'v2': with_gradients(second, **shared, mask=mask, bias=bias),
        'v2-no-bias': with_gradients(second, **shared, mask=mask),
    }
    return {f'{key}.{name}': tensor for key, run in runs.items() for name, tensor in run.items()}


for dtype in (torch.float32, torch.float64):
    bits = str(dtype)[-2:]
    case(f'roi_align.{bits}', lambda d=dtype: draw_rois(d), run_roi_align)
    for name, geometry in GEOMETRIES.items():
        case(
            f'deform_conv.{name}.{bits}',
            lambda d=dtype, g=geometry: draw_conv(d, **g),
            lambda g=geometry, **tensors: run_conv(g, **tensors),
        )


def main() -> None:
    torch.manual_seed(0)
    values = {}
    for name, (draw, run) in CASES.items():
        inputs = draw()
        values |= {f'{name}/in/{key}': tensor for key, tensor in inputs.items()}
        values |= {f'{name}/out/{key}': tensor for key, tensor in run(**inputs).items()}
    save_file({key: tensor.contiguous() for key, tensor in values.items()}, PATH)
    print(f'{PATH}: {len(CASES)} cases, {PATH.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    from mmcv import _ext

    if not _ext.__file__.endswith('.so'):
        raise SystemExit('error: mmcv has no compiled ops here; docs/install.md, "Compiling mmcv"')
    main()

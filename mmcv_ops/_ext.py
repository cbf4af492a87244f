"""The ops behind ``mmcv.ops``, served from torchvision and plain PyTorch instead of compiled.

mmcv looks for its compiled ops under this name, and Python takes a compiled ``_ext*.so`` in mmcv's
folder before this file. torchvision's kernels do the same arithmetic, on the CPU and on CUDA; what
it lacks is written in PyTorch. Arguments are those of mmcv's callers: results go into tensors that
come along. Half-precision maps are computed in float32. Ops that nobody here calls exist, as
mmcv.ops asks when it is imported, and say when they are called that they need a compiled mmcv.

Nothing but torch and torchvision is imported: any program that imports mmcv.ops comes through here.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import torchvision

    _ops = torch.ops.torchvision
    _ops.nms  # noqa: B018 - not there where torchvision's kernels did not load
except (ImportError, OSError, RuntimeError, AttributeError) as error:
    raise ImportError(
        f'mmcv.ops needs the torchvision that belongs to torch {torch.__version__} '
        f'({" ".join(str(error).split())[:200]}); install both anew, from one index: '
        'pip uninstall -y torch torchvision && pip install torch torchvision'
    ) from None

_HALF = (torch.float16, torch.bfloat16)
_FAR = 1e6


def get_compiler_version() -> str:
    """What mmcv's report of an environment shows as its compiler."""
    return f'none: torchvision {torchvision.__version__} serves the ops'


def get_compiling_cuda_version() -> str:
    """CUDA release that the kernels are for (ROCm's on AMD's GPUs), or 'not available'."""
    # torchvision's builds for the CPU, and those for ROCm, do not have the name.
    cuda = torch.version.cuda if getattr(torchvision.version, 'cuda', None) else None
    return cuda or torch.version.hip or 'not available'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that no better one overlaps, best first."""
    # Equal scores in mmcv's order: torchvision sorts again, but leaves equal ones where they are.
    scores, order = scores.sort(descending=True)
    boxes, iou_threshold = _widen(boxes)[order], _float32(iou_threshold)
    if offset:
        return order[_nms_with_offset(boxes, iou_threshold, offset)]
    return order[_ops.nms(boxes, _widen(scores).to(boxes.dtype), iou_threshold)]


def _nms_with_offset(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    # torchvision has none, and a shifted corner rounds otherwise: (x2 + 1) - x1, not (x2 - x1) + 1.
    areas = _areas(boxes, offset)
    keep = torch.ones_like(areas, dtype=torch.bool)
    for index in range(len(boxes)):
        if keep[index]:
            box, rest = boxes[index], boxes[index + 1 :]
            overlap = _intersections(box, rest, offset)
            overlap /= areas[index] + areas[index + 1 :] - overlap
            keep[index + 1 :] &= ~(overlap > iou_threshold)
    return keep.nonzero()[:, 0]


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: writes boxes with lowered scores into ``dets``, best first, returns their indices.

    ``method`` is 0 for naive, 1 for linear, 2 for gaussian. Equal scores are taken in the order
    that mmcv's loop meets them: a dropped box is replaced by the last one.
    """
    # Boxes, score, area and index in one table, so that an exchange of rows is one.
    table = torch.cat((_widen(boxes), _widen(scores)[:, None]), dim=1)
    table = torch.cat((table, _areas(table, offset)[:, None]), dim=1)
    index = torch.arange(len(table))
    sigma, iou_threshold = _float32(sigma), _float32(iou_threshold)
    min_score = _float32(min_score)
    count, start = len(table), 0
    while start < count:
        left = table[start:count, 4]
        # A score that is not a number is never the larger one, and never replaced where it stands.
        ranked = left.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        best = 0 if left[0].isnan() else int(ranked.argmax())
        if best:
            pair = torch.tensor([start, start + best])
            table[pair] = table[pair.flip(0)]
            index[pair] = index[pair.flip(0)]
        chosen, rest = table[start], table[start + 1 : count]
        inter = _intersections(chosen, rest, offset)
        overlap = inter / (chosen[5] + rest[:, 5] - inter)
        if method == 2:
            rest[:, 4] *= torch.exp(-(overlap * overlap) / sigma)
        else:
            lowered = 1 - overlap if method == 1 else torch.zeros_like(overlap)
            rest[:, 4] *= torch.where(overlap >= iou_threshold, lowered, 1)
        dropped = rest[:, 4] < min_score
        start += 1
        if dropped.any():
            kept = len(rest) - int(dropped.sum())
            holes = dropped[:kept].nonzero().flatten() + start
            fillers = (~dropped[kept:]).nonzero().flatten().flip(0) + start + kept
            table[holes], index[holes] = table[fillers], index[fillers]
            count = start + kept
    dets[:count] = table[:count, :5]
    return index[:count]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign of maps (B, C, H, W) for RoIs (batch index, x1, y1, x2, y2)."""
    if pool_mode == 0:
        _refuse("roi_align with pool_mode='max'")
    if rois.is_cpu and not (rois[:, 3:] - rois[:, 1:3]).isfinite().all():
        raise ValueError('RoIAlign: an RoI is not finite')
    if rois.is_cpu and aligned and (rois[:, 3:] < rois[:, 1:3]).any():
        raise ValueError('RoIAlign: an RoI has a negative width or height')
    input = _widen(input)
    result = _ops.roi_align(
        input,
        rois.to(input.dtype),
        _float32(spatial_scale),
        aligned_height,
        aligned_width,
        sampling_ratio,
        aligned,
    )
    output.copy_(result)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` with respect to the maps."""
    grad_output = _widen(grad_output)
    if torch.are_deterministic_algorithms_enabled():
        grad_output = grad_output.cpu()  # a GPU adds up in any order
        rois = rois.cpu()
    result = _ops._roi_align_backward(
        grad_output,
        rois.to(grad_output.dtype),
        _float32(spatial_scale),
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(result)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of logits (N, C) for class indices (N,); any index outside of C is background."""
    x, _, factor = _focal_terms(input, target, weight, alpha)
    output.copy_(-factor * (-x).sigmoid().pow(gamma) * F.logsigmoid(x))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Gradient of :func:`sigmoid_focal_loss_forward` with respect to the logits."""
    x, positive, factor = _focal_terms(input, target, weight, alpha)
    p, rest = x.sigmoid(), (-x).sigmoid()
    slope = -rest.pow(gamma) * (rest - gamma * p * F.logsigmoid(x))
    grad_input.copy_(factor * torch.where(positive, slope, -slope))


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (N,) of probabilities (N, C) for class indices (N,); negative ones are ignored."""
    p, factor, _ = _softmax_terms(input, target, weight, alpha)
    output.copy_(-factor * (1 - p).pow(gamma) * p.clamp(min=_TINY).log())


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Gradient of :func:`softmax_focal_loss_forward` with respect to the logits."""
    p, factor, index = _softmax_terms(input, target, weight, alpha)
    rest = 1 - p
    # Clamped: where the probability is 1, its logarithm of 0 must not meet an infinite power.
    pull = gamma * rest.clamp(min=_TINY).pow(gamma - 1) * p * p.clamp(min=_TINY).log()
    slope = factor * (pull - rest.pow(gamma))
    buff.copy_(slope)
    slope = slope[:, None]
    grad_input.copy_((-slope * _widen(input)).scatter_add(1, index, slope))


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Deformable attention over maps of several sizes.

    Args:
        value: (B, sum of H*W, heads, dim), the maps one after another.
        spatial_shapes: (levels, 2), height and width of each map.
        level_start_index: Follows from ``spatial_shapes``.
        sampling_locations: (B, queries, heads, levels, points, 2), x and y from 0 to 1.
        attention_weights: (B, queries, heads, levels, points).
        im2col_step: Images at a time in compiled mmcv.

    Returns:
        (B, queries, heads * dim).
    """
    tensors = (value, sampling_locations, attention_weights)
    return _deform_attn(spatial_shapes.tolist(), *map(_widen, tensors)).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`."""
    tensors = (value, sampling_locations, attention_weights)
    with torch.enable_grad():
        inputs = [_widen(tensor).detach().requires_grad_() for tensor in tensors]
        output = _deform_attn(spatial_shapes.tolist(), *inputs)
    grads = torch.autograd.grad(output, inputs, grad_output.to(output.dtype))
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    im2col_step: int,
    **geometry: int,
) -> None:
    """Deformable convolution; ``offset`` is (B, 2 * deform groups * kernel, H, W), y before x."""
    arguments = _conv_arguments(input, weight, offset)
    output.copy_(_ops.deform_conv2d(*arguments, *_v1_geometry(**geometry), False))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    *,
    im2col_step: int,
    **geometry: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` with respect to the map and the offsets."""
    settings = _v1_geometry(**geometry)
    arguments = _conv_arguments(input, weight, _off_the_edge(offset, weight, settings))
    grads = _ops._deform_conv2d_backward(_widen(grad_output), *arguments, *settings, False)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float = 1,
    im2col_step: int,
    **geometry: int,
) -> None:
    """Adds ``scale`` times the gradient with respect to the weight to ``grad_weight``."""
    # It does not depend on the weight, of which only the shape is known here.
    arguments = _conv_arguments(input, grad_weight, offset)
    grads = _ops._deform_conv2d_backward(
        _widen(grad_output), *arguments, *_v1_geometry(**geometry), False
    )
    grad_weight.add_(grads[1].to(grad_weight.dtype), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution with a factor for each sample: ``mask``."""
    offset, mask = _as_read(offset, output), _as_read(mask, output)
    arguments = _conv_arguments(input, weight, offset, mask, bias if with_bias else None)
    output.copy_(_ops.deform_conv2d(*arguments, *_v2_geometry(**geometry), True))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`."""
    settings = _v2_geometry(**geometry)
    offset, mask = _as_read(offset, grad_output), _as_read(mask, grad_output)
    offset = _off_the_edge(offset, weight, settings)
    arguments = _conv_arguments(input, weight, offset, mask, bias if with_bias else None)
    grads = _ops._deform_conv2d_backward(_widen(grad_output), *arguments, *settings, True)
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    _write_as_read(grad_offset, grads[2])
    _write_as_read(grad_mask, grads[3])
    if with_bias:
        grad_bias.copy_(grads[4])


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Any other op: it exists, and refuses to be called."""
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def op(*args: object, **kwargs: object) -> NoReturn:
        _refuse(name)

    op.__name__ = op.__qualname__ = name
    return op


def _refuse(op: str) -> NoReturn:
    how = '"Compiling mmcv" in docs/install.md of mmlab-inline'
    with suppress(PackageNotFoundError):  # upstream's mmcv: compiling that one was not tried
        how = (
            f'with a C++ compiler ({"and nvcc, " if torch.cuda.is_available() else ""}{how}): '
            'pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir '
            f'onedl-mmcv=={version("onedl-mmcv")}'
        )
    raise NotImplementedError(
        f'{op} of mmcv.ops needs a compiled mmcv, it is none of those served without; {how}'
    )


# What mmcv's kernels take a logarithm of at least: the smallest normal float32.
_TINY = torch.finfo(torch.float32).tiny


def _float32(number: float) -> float:
    """As mmcv's functions receive it."""
    return torch.tensor(number, dtype=torch.float32).item()


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


def _areas(boxes: Tensor, offset: int) -> Tensor:
    return (boxes[:, 2:4] - boxes[:, :2] + offset).prod(dim=1)


def _intersections(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    sides = torch.minimum(box[2:4], boxes[:, 2:4]) - torch.maximum(box[:2], boxes[:, :2])
    return (sides + offset).clamp(min=0).prod(dim=1)


def _focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of what is true of each class, to be there or not; which are there; the factors."""
    input = _widen(input)
    most = torch.finfo(input.dtype).max  # of an infinite logit the gradient would be no number
    input = input.clamp(-most, most)
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    factor = torch.where(positive, alpha, 1 - alpha).to(input.dtype)
    if weight.numel():
        inside = (target >= 0) & (target < len(weight))  # the background has no weight
        weight = torch.where(inside, _widen(weight)[target * inside], 1)
        factor = factor * weight[:, None]
    return torch.where(positive, input, -input), positive, factor


def _softmax_terms(
    softmax: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of the true class, factor and the class's index as a column."""
    index = target.clamp(min=0)
    p = _widen(softmax).gather(1, index[:, None])[:, 0]
    factor = torch.where(target >= 0, alpha, 0).to(p.dtype)
    if weight.numel():
        factor = factor * _widen(weight)[index]
    return p, factor, index[:, None]


def _deform_attn(
    shapes: Sequence[Sequence[int]], value: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # B * heads, queries, levels, ...
    weights = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # B * heads, dim, all pixels
    output = 0
    levels = maps.split([h * w for h, w in shapes], dim=2)
    for level, (level_map, (height, width)) in enumerate(zip(levels, shapes, strict=True)):
        samples = F.grid_sample(
            level_map.unflatten(2, (height, width)), grids[:, :, level], align_corners=False
        )
        # Level by level: only one level's samples are in memory at a time.
        output = output + (samples * weights[:, :, :, level]).sum(dim=-1)
    return output.view(batch, heads * dim, queries).transpose(1, 2).contiguous()


def _as_read(places: Tensor, output: Tensor) -> Tensor:
    """Offsets or masks (B, channels, H, W) as mmcv reads them: as if of the output's size.

    DyHead has those of the map before the output; its weights are trained so.
    """
    shape = (places.shape[1], *output.shape[2:])
    if places.shape[1:] == shape:
        return places
    places, count = places.flatten(1), math.prod(shape)
    if places.shape[1] < count:
        raise ValueError(
            f'deformable convolution: too few offsets or masks for an output of {shape[1:]}'
        )
    return places[:, :count].unflatten(1, shape)


def _write_as_read(target: Tensor, grad: Tensor) -> None:
    """Write the gradient of what :func:`_as_read` has read; of what it has not, it is 0."""
    grad = grad.flatten(1)
    missing = math.prod(target.shape[1:]) - grad.shape[1]
    target.copy_(F.pad(grad, (0, missing)).view(target.shape))


def _conv_arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The tensors as torchvision takes them: it wants a mask and a bias in any case.

    It would read beside the map at a place that is no number; far outside, a sample is 0.
    """
    offset = _widen(offset).nan_to_num(_FAR, _FAR, -_FAR)
    if mask is None:
        mask = input.new_zeros(len(input), 1)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    return tuple(map(_widen, (input, weight, offset, mask, bias)))


def _off_the_edge(offset: Tensor, weight: Tensor, geometry: Sequence[int]) -> Tensor:
    """Offsets whose samples at exactly -1 are far outside, where their gradient is 0.

    So it is in mmcv; torchvision's is that of the inner side.
    """
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, *_ = geometry
    y, x = _widen(offset).unflatten(1, (-1, *weight.shape[2:], 2)).unbind(4)
    tap_h, tap_w, h, w = (torch.arange(size, device=offset.device) for size in y.shape[2:])
    top = tap_h[:, None] * dilation_h + h * stride_h - pad_h
    left = tap_w[:, None] * dilation_w + w * stride_w - pad_w
    at_edge = (y + top[:, None, :, None] == -1) | (x + left[:, None] == -1)
    return torch.stack((y.masked_fill(at_edge, _FAR), x), dim=4).flatten(1, 4)


def _v1_geometry(
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
) -> tuple[int, ...]:
    return dH, dW, padH, padW, dilationH, dilationW, group, deformable_group


def _v2_geometry(
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
) -> tuple[int, ...]:
    return stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group

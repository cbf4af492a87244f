"""Boxes, scores and classes of a detector as one graph, decoded as mmdet does it.

mmdet's own code branches on how many boxes there are, which no graph for images of any size can.
Here every step has a fixed number of candidates, those that do not exist with a score of -1, until
the last one drops them.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..utils import UserError

_NONE = -1.0
# Heads whose decoding this is; one that overrides a method decodes otherwise.
_DECODED_HERE = {
    'dense': ('BaseDenseHead', ('_predict_by_feat_single', '_bbox_post_process')),
    'rpn': ('RPNHead', ('_predict_by_feat_single', '_bbox_post_process')),
    'standard': ('StandardRoIHead', ('predict_bbox', '_bbox_forward')),
    'cascade': ('CascadeRoIHead', ('predict_bbox', '_refine_roi', '_bbox_forward')),
    'box head': ('BBoxHead', ('_predict_by_feat_single', 'regress_by_class')),
    'extractor': ('SingleRoIExtractor', ('forward', 'map_roi_levels')),
}


def check_boxes(model: nn.Module, kind: str) -> None:
    """Check that the boxes of a detector are found as :func:`find_boxes` does it.

    Args:
        model: The detector.
        kind: ``'two-stage'`` or ``'dense'``.

    Raises:
        UserError: A part of it works otherwise.
    """
    if kind == 'dense':
        parts = {'bbox_head': (model.bbox_head, 'dense')}
        settings = [model.bbox_head.test_cfg]
    else:
        head = model.roi_head
        cascade = isinstance(head.bbox_head, nn.ModuleList)
        parts = {
            'rpn_head': (model.rpn_head, 'rpn'),
            'roi_head': (head, 'cascade' if cascade else 'standard'),
        }
        for stage, (extractor, box_head) in enumerate(_stages(head)):
            parts[f'bbox_roi_extractor {stage}'] = (extractor, 'extractor')
            parts[f'bbox_head {stage}'] = (box_head, 'box head')
        settings = [model.rpn_head.test_cfg, head.test_cfg]
    for name, (part, role) in parts.items():
        if not _works_as(part, *_DECODED_HERE[role]):
            raise UserError(f'--boxes: {type(part).__name__} ({name}) finds boxes in its own way')
    for part, _ in parts.values():
        custom = getattr(getattr(part, 'loss_cls', None), 'custom_cls_channels', False)
        if custom or getattr(part, 'with_shared_head', False):
            raise UserError(f'--boxes: {type(part).__name__} has settings that are not supported')
    for nms in (part['nms'] for part in settings):
        if nms.get('type') not in ('nms', None) or nms.get('class_agnostic'):
            raise UserError(f'--boxes: {dict(nms)} is not supported; plain NMS by class is')


def find_boxes(model: nn.Module, kind: str, maps: Sequence[Tensor], image: Tensor) -> dict:
    """What a detector finds in one image.

    Args:
        model: A detector that :func:`check_boxes` has passed.
        kind: As there.
        maps: Of the neck, one image.
        image: (1, C, H, W) before padding: its sides are what boxes are clipped at.

    Returns:
        ``boxes`` (N, 4), left, top, right and bottom in pixels of the image; ``scores`` (N,), the
        highest first; ``labels`` (N,).
    """
    height, width = image.shape[2:]
    limits = image.new_ones(4)
    limits = torch.stack([limits[0] * width, limits[1] * height] * 2)
    if kind == 'dense':
        return _boxes_of_dense_head(model.bbox_head, maps, limits)
    proposals = _proposals(model.rpn_head, maps, limits)
    return _boxes_of_roi_head(model.roi_head, maps, *proposals, limits)


def _boxes_of_dense_head(head: nn.Module, maps: Sequence[Tensor], limits: Tensor) -> dict:
    cfg = head.test_cfg
    found = []
    for points, scores, deltas, *factors in _levels(head, maps):
        classes = scores.shape[1]
        chosen, indices = _best(scores, cfg.get('nms_pre', -1))
        rows = indices // classes
        chosen = torch.where(chosen > cfg.get('score_thr', 0), chosen, _NONE)
        for factor in factors:
            chosen = torch.where(chosen > 0, chosen * factor.sigmoid()[rows, 0], _NONE)
        found.append((chosen, indices % classes, points[rows], deltas[rows]))
    scores, labels, points, deltas = map(torch.cat, zip(*found, strict=True))
    boxes = _decoded(head.bbox_coder, points, deltas, limits)
    return _kept(boxes, _without_small(scores, boxes, cfg), labels, cfg, limits)


def _proposals(head: nn.Module, maps: Sequence[Tensor], limits: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (max_per_img, 4) and their scores, the highest first."""
    cfg = head.test_cfg
    found = []
    for level, (points, scores, deltas) in enumerate(_levels(head, maps)):
        chosen, rows = _best(scores, cfg.get('nms_pre', -1))
        found.append((chosen, torch.full_like(rows, level), points[rows], deltas[rows]))
    scores, levels, points, deltas = map(torch.cat, zip(*found, strict=True))
    boxes = _decoded(head.bbox_coder, points, deltas, limits)
    found = _kept(boxes, _without_small(scores, boxes, cfg), levels, cfg, limits)
    # As many as there may be, so that what follows has one size.
    count = cfg['max_per_img']
    return (
        F.pad(found['boxes'], (0, 0, 0, count))[:count],
        F.pad(found['scores'], (0, count), value=_NONE)[:count],
    )


def _boxes_of_roi_head(
    head: nn.Module, maps: Sequence[Tensor], boxes: Tensor, real: Tensor, limits: Tensor
) -> dict:
    stages = _stages(head)
    logits = 0
    for extractor, box_head in stages:
        scores, deltas = box_head(_pooled(extractor, maps, boxes))
        logits = logits + scores / len(stages)
        if box_head is not stages[-1][1]:
            label = scores[:, :-1].argmax(1)
            if not box_head.reg_class_agnostic:
                deltas = deltas.view(len(deltas), -1, 4)
                deltas = deltas.gather(1, label.view(-1, 1, 1).expand(-1, 1, 4))[:, 0]
            boxes = _decoded(box_head.bbox_coder, boxes, deltas, limits)
    cfg = head.test_cfg
    scores = logits.softmax(-1)[:, :-1]
    scores = torch.where((scores > cfg['score_thr']) & (real >= 0)[:, None], scores, _NONE)
    classes = scores.shape[1]
    per_class = 1 if box_head.reg_class_agnostic else classes
    boxes = _decoded(
        box_head.bbox_coder, boxes.repeat_interleave(per_class, 0), deltas.reshape(-1, 4), limits
    )
    boxes = boxes.view(-1, per_class, 4).expand(-1, classes, 4).reshape(-1, 4)
    labels = torch.arange(classes, device=boxes.device).expand(scores.shape).reshape(-1)
    return _kept(boxes, scores.reshape(-1), labels, cfg, limits)


def _levels(head: nn.Module, maps: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Of each level its anchors or points, and scores, box deltas and whatever else, in rows.

    Where the head keeps the best of a level, rows that do not exist fill it up to so many.
    """
    outputs = head(maps)
    sizes = [scores.shape[-2:] for scores in outputs[0]]
    priors = head.prior_generator.grid_priors(sizes, maps[0].dtype, maps[0].device)
    widths = (head.cls_out_channels, head.bbox_coder.encode_size, 1)
    missing = max(head.test_cfg.get('nms_pre', -1), 0)
    found = []
    for points, scores, deltas, *factors in zip(priors, *outputs, strict=True):
        members = [
            member[0].permute(1, 2, 0).reshape(-1, width)
            for member, width in zip((scores, deltas, *factors), widths, strict=False)
        ]
        if head.use_sigmoid_cls:
            members[0] = members[0].sigmoid()
        else:
            members[0] = members[0].softmax(-1)[:, :-1]
        rows = -(-missing // members[0].shape[1])
        padded = [F.pad(members[0], (0, 0, 0, rows), value=_NONE)]
        padded += [F.pad(member, (0, 0, 0, rows)) for member in members[1:]]
        found.append((F.pad(points, (0, 0, 0, rows)), *padded))
    return found


def _best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of all scores (N, C) and their places in the flat table."""
    flat = scores.reshape(-1)
    return flat.topk(count) if count > 0 else flat.sort(descending=True)


def _decoded(coder: object, points: Tensor, deltas: Tensor, limits: Tensor) -> Tensor:
    boxes = coder.decode(points, deltas)
    if getattr(coder, 'clip_border', True):
        boxes = torch.minimum(boxes.clamp(min=0), limits)
    return boxes


def _without_small(scores: Tensor, boxes: Tensor, cfg: Mapping) -> Tensor:
    least = cfg.get('min_bbox_size', -1)
    if least < 0:
        return scores
    sides = boxes[:, 2:] - boxes[:, :2]
    return torch.where((sides > least).all(1), scores, _NONE)


def _kept(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: Mapping, limits: Tensor) -> dict:
    """What NMS among the boxes of one label leaves, the highest scores first."""
    real = (scores >= 0).nonzero()[:, 0]
    boxes, scores, labels = boxes[real], scores[real], labels[real]
    # So far apart that boxes of different labels never meet.
    distance = torch.cat([boxes.reshape(-1), limits]).max() + 1
    apart = boxes + (labels * distance)[:, None]
    threshold = cfg['nms'].get('iou_threshold', cfg['nms'].get('iou_thr'))
    kept = torch.ops.torchvision.nms(apart, scores, threshold)
    if cfg['max_per_img'] > 0:
        kept = kept[torch.arange(kept.shape[0], device=kept.device) < cfg['max_per_img']]
    return dict(boxes=boxes[kept], scores=scores[kept], labels=labels[kept])


def _pooled(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Features (N, C, h, w) of boxes, each from the level of its size."""
    rois = F.pad(boxes, (1, 0))
    levels = extractor.map_roi_levels(rois, extractor.num_inputs)
    first = extractor.roi_layers[0]
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *first.output_size)
    for level, layer in enumerate(extractor.roi_layers):
        rows = (levels == level).nonzero()[:, 0]
        part = torch.ops.torchvision.roi_align(
            maps[level],
            rois[rows],
            layer.spatial_scale,
            *layer.output_size,
            layer.sampling_ratio,
            layer.aligned,
        )
        pooled = pooled.index_put((rows,), part)
    return pooled


def _stages(head: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Extractor and box head of each stage."""
    if isinstance(head.bbox_head, nn.ModuleList):
        return list(zip(head.bbox_roi_extractor, head.bbox_head, strict=True))
    return [(head.bbox_roi_extractor, head.bbox_head)]


def _works_as(part: object, name: str, methods: Sequence[str]) -> bool:
    """Whether a part has these methods from mmdet's class of that name."""
    base = next((cls for cls in type(part).__mro__ if cls.__name__ == name), None)
    return base is not None and all(
        getattr(type(part), method) is getattr(base, method) for method in methods
    )

"""Settings and names of metrics, judged before an evaluation runs."""

from collections.abc import Iterable

import numpy as np
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook

from ..utils import UserError, did_you_mean

_COCO_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
_PROPOSAL_ITEMS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')
_IOU_ITEMS = {
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}


def prepare_metrics(evaluator: object) -> None:
    """Put settings of mmdet's CocoMetric into the form that pycocotools takes.

    Raises:
        UserError: They would fail when all images have been predicted.
    """
    for metric in evaluator.metrics if isinstance(evaluator, Evaluator) else ():
        if not _is(metric, 'mmdet', 'CocoMetric'):
            continue
        metric.iou_thrs = np.atleast_1d(np.asarray(metric.iou_thrs, float))
        numbers, items = metric.proposal_nums, metric.metric_items or ()
        if set(metric.metrics) != {'proposal_fast'} and (len(numbers) != 3 or 100 not in numbers):
            raise UserError(
                f'proposal_nums={tuple(numbers)} of CocoMetric: COCO evaluates three numbers, and '
                'its AP at 100, such as (1, 10, 100) or (100, 300, 1000)'
            )
        if metric.classwise and len(metric.iou_thrs) < 6:
            raise UserError(
                'classwise=True of CocoMetric shows the first and the sixth of iou_thrs, but there '
                f'are {len(metric.iou_thrs)}: leave one of both out'
            )
        known = (*_COCO_ITEMS, *_PROPOSAL_ITEMS)
        for item in items:
            if item not in known:
                raise UserError(
                    f'metric_items of CocoMetric has no {item!r}{did_you_mean(item, known)}; it '
                    f'has {", ".join(known)}'
                )


def metric_names(evaluator: object) -> set[str] | None:
    """Names of what an evaluator gives; None where only running it tells."""
    if not isinstance(evaluator, Evaluator):
        return None
    names: set[str] = set()
    for metric in evaluator.metrics:
        found = _names_of(metric)
        if found is None:
            return None
        names |= {f'{metric.prefix}/{name}' if metric.prefix else name for name in found}
    return names


def check_metric_names(evaluator: object, hooks: Iterable[Hook], schedulers: object) -> None:
    """Check that what a run is steered by is among its metrics.

    Args:
        evaluator: Of the validation.
        hooks: Of the run.
        schedulers: Of the run.

    Raises:
        UserError: It is not.
    """
    names = metric_names(evaluator)
    if names is None:
        return
    wanted = [
        ('default_hooks.checkpoint.save_best', key)
        for hook in hooks
        if isinstance(hook, CheckpointHook) and hook.save_best
        for key in hook.key_indicators
        if key != 'auto'
    ]
    wanted += [
        ('the monitor of EarlyStoppingHook', hook.monitor)
        for hook in hooks
        if isinstance(hook, EarlyStoppingHook)
    ]
    wanted += [
        (f'the monitor of {type(scheduler).__name__}', scheduler.monitor)
        for scheduler in (schedulers if isinstance(schedulers, list) else ())
        if hasattr(scheduler, 'monitor')
    ]
    for place, key in wanted:
        if key not in names:
            near = next((name for name in sorted(names) if name.endswith(f'/{key}')), None)
            hint = f' (did you mean {near!r}?)' if near else did_you_mean(key, names)
            raise UserError(
                f'{place}: the evaluation gives no {key!r}{hint}; it gives '
                f'{", ".join(sorted(names))}'
            )


def _names_of(metric: object) -> set[str] | None:
    if _is(metric, 'mmseg', 'IoUMetric') and not metric.format_only:
        items = (_IOU_ITEMS.get(name) for name in metric.metrics)
        return {'aAcc', *(name for some in items for name in some or ())}
    if _is(metric, 'mmdet', 'CocoMetric') and not metric.classwise:
        names: set[str] = set()
        if metric.format_only:
            return names
        for name in metric.metrics:
            if name == 'proposal_fast':
                names |= {f'AR@{number}' for number in metric.proposal_nums}
            elif name == 'proposal':
                names |= set(metric.metric_items or _PROPOSAL_ITEMS)
            else:
                names |= {f'{name}_{item}' for item in metric.metric_items or _COCO_ITEMS}
        return names
    return None


def _is(metric: object, package: str, name: str) -> bool:
    """Whether it is of just this class, told without importing the package."""
    cls = type(metric)
    return cls.__name__ == name and cls.__module__.partition('.')[0] == package

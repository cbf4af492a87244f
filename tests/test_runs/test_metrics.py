import json

import numpy as np
import pytest
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook

from mmlab_inline.runs.metrics import check_metric_names, metric_names, prepare_metrics
from mmlab_inline.utils import UserError

mmdet = pytest.importorskip('mmdet')
mmseg = pytest.importorskip('mmseg')


def coco(**settings):
    from mmdet.evaluation import CocoMetric

    return Evaluator(CocoMetric(**settings))


def iou(**settings):
    from mmseg.evaluation import IoUMetric

    return Evaluator(IoUMetric(**settings))


@pytest.mark.parametrize(
    ('key', 'suggestion'),
    [('bbox_mAP', "'coco/bbox_mAP'"), ('coco/bbox_map_50', "'coco/bbox_mAP_50'"), ('acc', None)],
)
@pytest.mark.parametrize(
    'build',
    [
        lambda key: CheckpointHook(save_best=key, rule='greater'),
        lambda key: CheckpointHook(save_best=['coco/segm_mAP', key], rule='greater'),
        lambda key: EarlyStoppingHook(monitor=key, rule='greater'),
    ],
)
def test_unknown_metric_stops_before_the_run(build, key, suggestion):
    evaluator = coco(metric=['bbox', 'segm'])
    with pytest.raises(UserError, match=f'gives no {key!r}') as error:
        check_metric_names(evaluator, [build(key)], None)
    assert suggestion is None or f'did you mean {suggestion}?' in str(error.value)


def test_known_metrics_pass():
    hooks = [
        CheckpointHook(save_best=['coco/bbox_mAP', 'coco/bbox_mAP_s']),
        EarlyStoppingHook('acc'),
    ]
    check_metric_names(coco(), hooks[:1], None)
    check_metric_names(coco(), [CheckpointHook(save_best='auto')], None)
    check_metric_names(iou(), [CheckpointHook(save_best='mIoU')], None)
    with pytest.raises(UserError, match='mDice'):
        check_metric_names(iou(), [CheckpointHook(save_best='mDice')], None)
    # What only running tells is not judged.
    assert metric_names(coco(classwise=True)) is None
    check_metric_names(coco(classwise=True), hooks, None)


@pytest.mark.parametrize('metrics', [['mIoU'], ['mIoU', 'mDice', 'mFscore']])
def test_names_are_those_of_mmsegs_metric(metrics):
    evaluator = iou(iou_metrics=metrics)
    evaluator.dataset_meta = dict(classes=('a', 'b'))
    areas = [tuple(np.array([3.0, 2.0]) for _ in range(4))]
    import torch

    (metric,) = evaluator.metrics
    given = metric.compute_metrics([tuple(map(torch.tensor, areas[0]))])
    assert metric_names(evaluator) == set(given)


@pytest.fixture
def ann_file(tmp_path):
    images = [dict(id=1, width=50, height=50, file_name='a.png')]
    annotation = dict(id=1, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0)
    content = dict(images=images, annotations=[annotation], categories=[dict(id=1, name='a')])
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    return str(tmp_path / 'ann.json')


def evaluate(evaluator):
    import torch

    evaluator.dataset_meta = dict(classes=('a',))
    prediction = dict(
        bboxes=torch.tensor([[5.0, 5, 25, 25]]), scores=torch.ones(1), labels=torch.zeros(1).long()
    )
    sample = dict(img_id=1, ori_shape=(50, 50), pred_instances=prediction)
    evaluator.process([sample])
    return evaluator.evaluate(1)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(iou_thrs=[0.5]),
        dict(iou_thrs=0.75),
        dict(iou_thrs=(0.5, 0.75), metric_items=['mAP', 'mAP_75']),
        dict(metric=['proposal']),
        dict(metric=['proposal_fast'], proposal_nums=(1, 2)),
    ],
)
def test_settings_of_cocos_metric_work(settings, ann_file):
    evaluator = coco(ann_file=ann_file, **settings)
    prepare_metrics(evaluator)
    names = {name for name in evaluate(evaluator) if not name.endswith('copypaste')}
    assert names == metric_names(evaluator)


@pytest.mark.parametrize(
    ('settings', 'reason'),
    [
        (dict(proposal_nums=(100,)), r'proposal_nums=\(100,\)'),
        (dict(proposal_nums=(1, 10, 50)), 'AP at 100'),
        (dict(classwise=True, iou_thrs=[0.5]), 'classwise'),
        (dict(metric_items=['mAP50']), "did you mean 'mAP_50'"),
    ],
)
def test_settings_that_would_fail_after_the_last_image(settings, reason, ann_file):
    evaluator = coco(ann_file=ann_file, **settings)
    with pytest.raises(UserError, match=reason):
        prepare_metrics(evaluator)

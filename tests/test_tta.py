from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmlab_inline.datasets import write_dataset
from mmlab_inline.datasets.checks.settings import transforms
from mmlab_inline.engine import load_config
from mmlab_inline.engine.runner import CheckedRunner
from mmlab_inline.inference import enable_tta
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

DEMO = Path(__file__).parents[1] / 'configs/demo'
PUBLISHED = DEMO.parent / 'segmentation'
SEGMENTOR = str(DEMO / 'sem-fpn_inline-swin-demo_shapes.py')
DETECTOR = str(DEMO / 'mask-rcnn_inline-pvt-demo_shapes.py')
BOXES = {
    'model.roi_head.mask_head': None,
    'model.roi_head.mask_roi_extractor': None,
    'test_evaluator.metric': 'bbox',
    'test_dataloader.dataset.indices': 2,
    'test_evaluator.ann_file': 'data/coco/annotations/instances_val2017.json',
    'test_dataloader.dataset.data_root': 'data/coco',
}


@pytest.fixture
def drawings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / 'data', 1, 2, classes=('circle', 'ring', 'cross'))


def test_merges_an_image_and_its_mirror_image(drawings):
    options = {'test_dataloader.dataset.data_root': 'data/ade/ADEChallengeData2016'}
    cfg = load_config(SEGMENTOR, options)
    plain = cfg.model.copy()
    enable_tta(cfg)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    with DefaultScope.overwrite_default_scope('mmseg'):
        loader = CheckedRunner.build_dataloader(cfg.test_dataloader)
    batch = next(iter(loader))
    mirrored, image = (view[0] for view in batch['inputs'])
    assert torch.equal(mirrored, image.flip(2))
    truths = [views[0].gt_sem_seg.data for views in batch['data_samples']]
    assert torch.equal(*truths)
    (merged,) = model.test_step(batch)
    probabilities = []
    alone = model.module
    for view in (image, mirrored):
        data = dict(inputs=[view], data_samples=None)
        logits = alone(**alone.data_preprocessor(data, False), mode='tensor')
        logits = torch.nn.functional.interpolate(logits, image.shape[1:], mode='bilinear')
        probabilities.append(logits[0].softmax(0))
    expected = (probabilities[0] + probabilities[1].flip(2)).argmax(0)
    assert (merged.pred_sem_seg.data == expected).float().mean() > 0.999
    assert plain.type == cfg.model.module.type


def test_mmsegs_own_script_sees_the_same_views(drawings):
    """It takes ``tta_pipeline`` and ``tta_model`` out of the config."""
    options = {'test_dataloader.dataset.data_root': 'data/ade/ADEChallengeData2016'}
    batches = []
    for own in (True, False):
        cfg = load_config(SEGMENTOR, options)
        if own:
            enable_tta(cfg)
        else:
            cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
            cfg.tta_model.module = cfg.model
            cfg.model = cfg.tta_model
        with DefaultScope.overwrite_default_scope('mmseg'):
            torch.manual_seed(0)
            model = MODELS.build(cfg.model).eval()
            batch = next(iter(CheckedRunner.build_dataloader(cfg.test_dataloader)))
        (merged,) = model.test_step(batch)
        batches.append([view[0] for view in batch['inputs']] + [merged.pred_sem_seg.data])
    assert all(map(torch.equal, *batches))


@pytest.mark.parametrize('path', [*map(str, sorted(PUBLISHED.glob('inline_*/*.py'))), SEGMENTOR])
def test_mmsegs_views_are_of_the_size_of_the_test(path):
    cfg = load_config(path)
    pipelines = cfg.tta_pipeline, cfg.test_dataloader.dataset.pipeline
    ours, theirs = ([step['scale'] for step in transforms(p, 'Resize')] for p in pipelines)
    assert ours == theirs


def test_boxes_of_both_are_merged(drawings, tmp_path):
    cfg = load_config(DETECTOR)
    cfg.merge_from_dict(BOXES)
    cfg.work_dir = str(tmp_path / 'run')
    limit = cfg.model.test_cfg.rcnn.max_per_img
    cfg.model.test_cfg.rcnn.score_thr = 0.0
    enable_tta(cfg)
    runner = CheckedRunner.from_cfg(cfg)
    views = next(iter(runner.test_loop.dataloader))
    boxes = runner.model.eval().test_step(views)[0].pred_instances
    assert 0 < len(boxes.bboxes) <= limit
    assert 'coco/bbox_mAP' in runner.test()


@pytest.mark.parametrize(
    ('config', 'options', 'reason'),
    [
        (DETECTOR, {}, 'this model predicts masks'),
        (SEGMENTOR, {'model.decode_head.out_channels': 1}, 'out_channels=1'),
        (SEGMENTOR, {'test_dataloader.dataset.pipeline': []}, r'does not end in Pack'),
    ],
)
def test_what_the_libraries_do_not_merge(config, options, reason):
    with pytest.raises(UserError, match=reason):
        enable_tta(load_config(config, options))

"""Test-time augmentation: each image and its mirror image, merged by mmdet's and mmseg's models."""

from collections.abc import Mapping

from mmengine.config import Config

from ..datasets.checks import innermost_datasets
from ..engine.config import dicts
from ..utils import UserError

_FLIP_KEYS = ('flip', 'flip_direction')


def enable_tta(cfg: Config) -> None:
    """Let the test of a config predict each image twice, once mirrored.

    What happens to an image follows from the test pipeline, so that it is always of this data set
    and of this size.

    Args:
        cfg: The config; changed in place.

    Raises:
        UserError: The library does not merge what this model predicts, or the pipeline is none
            that can be augmented.
    """
    if cfg.default_scope == 'mmseg':
        heads = (node for node in dicts(cfg.model) if 'num_classes' in node)
        if any(head.get('out_channels') == 1 for head in heads):
            raise UserError('--tta: mmseg merges no predictions of a head with out_channels=1')
        model = dict(_scope_='mmseg', type='SegTTAModel')
    else:
        parts = (item for node in dicts(cfg.model) for item in node.items())
        if any(name.endswith('mask_head') and part for name, part in parts):
            raise UserError('--tta: mmdet merges boxes only, and this model predicts masks')
        nms = dict(type='nms', iou_threshold=0.5)
        settings = dicts(cfg.model.get('test_cfg') or {})
        limits = [node['max_per_img'] for node in settings if 'max_per_img' in node]
        tta_cfg = dict(nms=nms, max_per_img=limits[-1] if limits else 100)
        model = dict(_scope_='mmdet', type='DetTTAModel', tta_cfg=tta_cfg)
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = _augmented(dataset.get('pipeline') or ())
    cfg.model = dict(**model, module=cfg.model)


def _augmented(pipeline: list[Mapping]) -> list[Mapping]:
    if not pipeline or not str(pipeline[-1].get('type')).rpartition('.')[2].startswith('Pack'):
        raise UserError('--tta: the test pipeline of the config does not end in Pack...Inputs')
    *before, pack = pipeline
    if 'meta_keys' in pack:
        pack = {**pack, 'meta_keys': (*dict.fromkeys((*pack['meta_keys'], *_FLIP_KEYS)),)}
    # The truth is not mirrored: predictions are turned back before they are compared with it.
    is_truth = [str(step.get('type')).endswith('LoadAnnotations') for step in before]
    truth = [step for step, flag in zip(before, is_truth, strict=True) if flag]
    # The image as it is comes last: its probabilities are those that mmseg keeps.
    flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
    transforms = [flips, *([step] for step in truth), [pack]]
    rest = [step for step, flag in zip(before, is_truth, strict=True) if not flag]
    return [*rest, dict(type='TestTimeAug', transforms=transforms)]

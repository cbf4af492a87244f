from pathlib import Path

import pytest
from mmengine.config import Config

from mmlab_inline.engine import check_options, drop_pretrained, load_config
from mmlab_inline.engine.config import pretrained_settings
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTOR = str(CONFIGS / 'detection/inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py')
SEGMENTOR = str(
    CONFIGS / 'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'
)


@pytest.fixture(scope='module')
def detector():
    return load_config(DETECTOR)


@pytest.mark.parametrize(
    'option',
    [
        'model.backbone.drop_path_rate',  # in the config
        'model.backbone.with_cp',  # only in the signature of InLinePVT
        'model.backbone.init_cfg.checkpoint',
        'model.neck.norm_cfg',
        'model.rpn_head.anchor_generator.base_sizes',
        'model.test_cfg.rcnn.score_thr',
        'optim_wrapper.optimizer.betas',  # only in the signature of AdamW
        'optim_wrapper.clip_grad.max_norm',
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
        'train_dataloader.batch_size',
        'train_dataloader.dataset.indices',  # of a base class of CocoDataset
        'train_dataloader.dataset.metainfo.classes',
        'train_dataloader.pin_memory',
        'val_dataloader.prefetch_factor',
        # Of dicts that no known class reads.
        'model.test_cfg.rcnn.nms.min_score',
        'model.test_cfg.rpn.nms_post',
        'model.train_cfg.rpn.anything',
        'optim_wrapper.clip_grad.norm_type',
        'param_scheduler.1.milestones',
        'default_hooks.checkpoint.save_last',
        'train_cfg.max_epochs',
        'randomness.seed',
        'work_dir',
        'load_from',
    ],
)
def test_known_option(detector, option):
    check_options(detector, {option: 1})


@pytest.mark.parametrize(
    ('option', 'suggestion'),
    [
        ('model.backbone.drop_path', "'drop_path_rate'"),
        ('model.backbon.arch', "'backbone'"),
        ('optim_wrapper.optimizer.learning_rate', 'learning_rate'),
        ('optim_wrapper.optimizer.weight_decai', "'weight_decay'"),
        ('train_dataloader.batchsize', "'batch_size'"),
        ('train_dataloader.pin_memroy', "'pin_memory'"),
        ('train_dataloader.anything', 'unknown key'),
        ('train_dataloader.dataset.data_roott', "'data_root'"),
        ('model.test_cfg.rcnn.score_threshold', "'score_thr'"),
        ('train_cfg.max_iters', "'max_epochs'"),
        ('trian_cfg.max_epochs', "'train_cfg'"),
        ('param_scheduler.2.end', '0..1'),
        ('param_scheduler.first.end', '0..1'),
    ],
)
def test_unknown_option_suggests_the_nearest(detector, option, suggestion):
    with pytest.raises(UserError, match=option) as error:
        check_options(detector, {option: 1})
    assert suggestion in str(error.value)


def test_options_may_change_the_type_that_judges_them(detector):
    options = {'optim_wrapper.optimizer.type': 'SGD', 'optim_wrapper.optimizer.momentum': 0.9}
    check_options(detector, options)
    with pytest.raises(UserError, match='momentum'):
        check_options(detector, {'optim_wrapper.optimizer.momentum': 0.9})


def test_window_of_a_segmentor_may_be_added():
    options = dict.fromkeys(('mode', 'crop_size', 'stride'), 1)
    check_options(load_config(SEGMENTOR), {f'model.test_cfg.{k}': 1 for k in options})


def test_suggested_config_exists(tmp_path):
    (tmp_path / 'mine.py').write_text('')
    with pytest.raises(UserError, match='did you mean') as error:
        load_config(str(tmp_path / 'mine.pyy'))
    assert f"'{tmp_path / 'mine.py'}'" in str(error.value)


def test_load_config_merges_options():
    cfg = load_config(SEGMENTOR, {'model.backbone.arch': 'small'})
    assert cfg.model.backbone.arch == 'small'


def test_missing_config_suggests_the_nearest():
    wrong = DETECTOR.replace('pvt-t', 'pvt-tt')
    with pytest.raises(UserError, match=r'does not exist.*mask-rcnn_inline-pvt-t_fpn_1x_coco'):
        load_config(wrong)


@pytest.mark.parametrize('text', ['model = dict(', "_base_ = 'absent.py'", 'model = unknown_name'])
def test_broken_config_is_one_line(tmp_path, text):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(UserError, match='does not parse') as error:
        load_config(str(path))
    assert '\n' not in str(error.value)


def test_drop_pretrained_reaches_every_part():
    pretrained = dict(type='Pretrained', checkpoint='a.pth')
    cfg = Config(
        dict(
            model=dict(
                backbone=dict(init_cfg=pretrained),
                heads=[dict(init_cfg=pretrained), dict(init_cfg=dict(type='Normal'))],
            )
        )
    )
    drop_pretrained(cfg)
    assert cfg.model.backbone.init_cfg is None
    assert cfg.model.heads[0].init_cfg is None
    assert cfg.model.heads[1].init_cfg == dict(type='Normal')


def test_drop_pretrained_looks_into_lists():
    pretrained, normal = dict(type='Pretrained', checkpoint='a.pth'), dict(type='Normal')
    parts = dict(
        backbone=dict(init_cfg=[pretrained]),
        neck=dict(init_cfg=[pretrained, normal, pretrained]),
        head=dict(init_cfg=[normal]),
    )
    cfg = Config(dict(model=parts))
    assert [settings for _, settings in pretrained_settings(cfg)] == [pretrained] * 3
    drop_pretrained(cfg)
    assert not list(pretrained_settings(cfg))
    assert not cfg.model.backbone.init_cfg
    assert cfg.model.neck.init_cfg == cfg.model.head.init_cfg == [normal]

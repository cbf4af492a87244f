import re

import pytest
from mmengine.config import Config

from mmlab_inline.engine import load_config
from mmlab_inline.runs import check_leftovers
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

DETECTOR = "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n"
SEGMENTOR = (
    "_base_ = 'mmlab_inline::segmentation/inline_swin/"
    "upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'\n"
)


@pytest.fixture
def checked(tmp_path):
    """Writes a config and checks it; the line that refuses it."""

    def check(text):
        path = tmp_path / 'own.py'
        path.write_text(text)
        with pytest.raises(UserError, match='_delete_=True') as info:
            check_leftovers(load_config(str(path)))
        return str(info.value)

    return check


@pytest.mark.parametrize('name', ['mmlab_inline.InLinePVT', 'InLinePVT'])
def test_all_of_a_replaced_backbone_are_named(checked, name):
    line = checked(f"{DETECTOR}model = dict(backbone=dict(type='{name}', arch='tiny'))\n")
    left = re.search(r'model\.backbone of type \S+ takes no ([^:]+):', line)[1].split(', ')
    assert {'depth', 'num_stages', 'norm_cfg', 'norm_eval', 'style'} <= set(left)
    assert not {'init_cfg', 'out_indices', 'frozen_stages', 'arch', 'type'} & set(left)


@pytest.mark.parametrize(
    ('settings', 'places'),
    [
        (
            "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))",
            ['optim_wrapper.optimizer of type AdamW takes no momentum'],
        ),
        (
            "train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)",
            ['train_cfg of type IterBasedTrainLoop takes no max_epochs'],
        ),
        (
            "val_evaluator = dict(type='VOCMetric')\nmodel = dict(neck=dict(type='PAFPN', x=1))",
            ['model.neck of type PAFPN takes no x', 'val_evaluator of type VOCMetric takes no'],
        ),
    ],
)
def test_all_parts_are_looked_at(checked, settings, places):
    line = checked(f'{DETECTOR}{settings}\n')
    assert all(place in line for place in places), line


def test_a_slip_is_told_as_one(checked):
    line = checked(f'{DETECTOR}model = dict(backbone=dict(dept=50))\n')
    assert "model.backbone of type ResNet takes no dept (did you mean 'depth'?)" in line


@pytest.mark.parametrize('base', [DETECTOR, SEGMENTOR])
def test_published_configs_pass(tmp_path, base):
    path = tmp_path / 'own.py'
    deleted = "dict(_delete_=True, type='mmlab_inline.InLinePVT', arch='tiny')"
    path.write_text(f'{base}model = dict(backbone={deleted})\n')
    check_leftovers(load_config(str(path)))


def test_what_cannot_be_known_passes():
    """Layers have builders of their own; an absent package is told elsewhere."""
    model = dict(
        type='mmdet.RPNHead',
        norm_cfg=dict(type='BN', requires_grad=True),
        loss_cls=dict(type='absent.Loss', weight=1),
        unknown=dict(arch='tiny'),
    )
    check_leftovers(Config(dict(model=model)))

"""Images of one pixel, of extreme aspect and of 48 million pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmlab_inline import InLinePVT, InLineSwin
from mmlab_inline.engine import load_config

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[1] / 'configs'
# Height, width.
SIZES = [(1, 1), (1, 3), (3, 1), (1, 900), (900, 1), (31, 33), (20, 1200)]
UPERNET = CONFIGS / 'segmentation/inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'


def build(path, **changes):
    torch.manual_seed(0)
    cfg = load_config(str(path), changes)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


@pytest.fixture(scope='module')
def detector():
    # Anchors as in the published configs: mmdet fails where a level has a single one in all, as for
    # images of up to 32 pixels that no transform has enlarged.
    ratios = {'model.rpn_head.anchor_generator.ratios': [0.5, 1.0, 2.0]}
    return build(CONFIGS / 'demo/mask-rcnn_inline-pvt-demo_shapes.py', **ratios)


@pytest.fixture(scope='module')
def sem_fpn():
    return build(CONFIGS / 'demo/sem-fpn_inline-swin-demo_shapes.py')


@pytest.fixture(scope='module')
def upernet():
    arch = dict(
        _delete_=True, embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratios=2
    )
    options = {
        'model.backbone.arch': arch,
        'model.backbone.init_cfg': None,
        'model.backbone.drop_path_rate': 0.0,
        'model.decode_head.in_channels': [16, 32, 64, 128],
        'model.decode_head.channels': 16,
        'model.auxiliary_head': None,
        'model.decode_head.norm_cfg.type': 'BN',
    }
    return build(UPERNET, **options)


def infer(model, size, data_sample):
    """What test_step gives for an image of noise, which no transform has resized."""
    pixels = np.random.RandomState(0).randint(0, 256, (3, *size)).astype(np.uint8)
    data_sample.set_metainfo(
        dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), img_path='a.jpg')
    )
    with torch.no_grad():
        batch = dict(inputs=[torch.from_numpy(pixels)], data_samples=[data_sample])
        (result,) = model.test_step(batch)
    return result


@pytest.mark.parametrize('size', SIZES)
def test_mask_rcnn(size, detector):
    from mmdet.structures import DetDataSample

    found = infer(detector, size, DetDataSample()).pred_instances
    assert found.masks.shape == (len(found), *size)
    assert torch.isfinite(found.bboxes).all()
    assert torch.isfinite(found.scores).all()


@pytest.mark.parametrize('name', ['sem_fpn', 'upernet'])
@pytest.mark.parametrize('size', SIZES)
def test_segmentors(size, name, request):
    from mmseg.structures import SegDataSample

    model = request.getfixturevalue(name)
    result = infer(model, size, SegDataSample())
    assert result.pred_sem_seg.data.shape == (1, *size)
    assert torch.isfinite(result.seg_logits.data).all()


@pytest.mark.long
@pytest.mark.parametrize('cls', [InLinePVT, InLineSwin])
def test_backbones_take_48_million_pixels(cls):
    # 3 million tokens in the first stage: narrow, because the full width needs tens of GiB.
    dims = (8, 16, 24, 32) if cls is InLinePVT else 8
    ratios = (1, 1, 1, 1) if cls is InLinePVT else 1
    arch = dict(embed_dims=dims, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), mlp_ratios=ratios)
    model = cls(arch).eval()
    with torch.no_grad():
        outs = model(torch.rand(1, 3, 6000, 8000))
    for stride, out in zip((4, 8, 16, 32), outs, strict=True):
        assert out.shape[-2:] == (-(-6000 // stride), -(-8000 // stride))
        assert torch.isfinite(out).all()

"""Detectors and segmentors that mmdet 2 and mmseg 0 trained, as Agent's and CSwin's authors do."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmlab_inline.engine import load_config, load_weights
from mmlab_inline.engine.model import build_model
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[2] / 'configs'
NARROW_PVT = dict(
    embed_dims=(8, 16, 24, 32),
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 4),
    softmax_heads=(1, 2, 2, 4),
    mlp_ratios=(2, 2, 2, 2),
)
NARROW_SWIN = dict(embed_dims=8, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 4), mlp_ratios=2)
NARROW_CSWIN = dict(NARROW_SWIN, num_heads=(2, 2, 4, 4))


def both(*names: str) -> set[str]:
    return {f'{name}.{part}' for name in names for part in ('weight', 'bias')}


def conv_norm(*names: str, bias: bool = False) -> set[str]:
    statistics = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    parts = ['conv.weight', *(['conv.bias'] if bias else []), *(f'bn.{s}' for s in statistics)]
    return {f'{name}.{part}' for name in names for part in parts}


FPN = both(*(f'neck.{kind}_convs.{i}.conv' for kind in ('lateral', 'fpn') for i in range(4)))
MASK_R_CNN = {
    *FPN,
    *both('rpn_head.rpn_conv', 'rpn_head.rpn_cls', 'rpn_head.rpn_reg'),
    *both(*(f'roi_head.bbox_head.{name}' for name in ('fc_cls', 'fc_reg'))),
    *both('roi_head.bbox_head.shared_fcs.0', 'roi_head.bbox_head.shared_fcs.1'),
    *both(*(f'roi_head.mask_head.convs.{i}.conv' for i in range(4))),
    *both('roi_head.mask_head.upsample', 'roi_head.mask_head.conv_logits'),
}
SEMANTIC_FPN = {
    *FPN,
    *both('decode_head.conv_seg'),
    # From each stride to that of the first map, with an upsampling between convolutions.
    *conv_norm(*(f'decode_head.scale_heads.{i}.{j}' for i, j in ((0, 0), (1, 0), (2, 0), (2, 2)))),
    *conv_norm(*(f'decode_head.scale_heads.3.{j}' for j in (0, 2, 4))),
}
UPERNET = {
    *both('decode_head.conv_seg', 'auxiliary_head.conv_seg'),
    *conv_norm(*(f'decode_head.psp_modules.{i}.1' for i in range(4))),
    *conv_norm('decode_head.bottleneck', 'decode_head.fpn_bottleneck', 'auxiliary_head.convs.0'),
    *conv_norm(*(f'decode_head.{k}_convs.{i}' for k in ('lateral', 'fpn') for i in range(3))),
}
FAMILIES = {
    'detection/agent_pvt/mask-rcnn_agent-pvt-t_fpn_1x_coco.py': MASK_R_CNN,
    'detection/agent_swin/mask-rcnn_agent-swin-t_fpn_ms-crop-1x_coco.py': MASK_R_CNN,
    'segmentation/agent_pvt/sem-fpn_agent-pvt-t_8xb2-40k_ade20k-512x512.py': SEMANTIC_FPN,
    'segmentation/agent_swin/upernet_agent-swin-t_8xb2-160k_ade20k-512x512.py': UPERNET,
    'segmentation/cswin/upernet_cswin-t_8xb2-160k_ade20k-512x512.py': UPERNET,
}


def narrow(path: str) -> nn.Module:
    """The model of a config with narrow layers, its names as they are."""
    cfg = load_config(str(CONFIGS / path))
    model = cfg.model
    model.backbone.arch = NARROW_PVT if 'pvt' in path else NARROW_SWIN
    if 'cswin' in path:
        model.backbone.update(arch=NARROW_CSWIN, attention='softmax')
    channels = [8, 16, 24, 32] if 'pvt' in path else [8, 16, 32, 64]
    if 'neck' in model:
        model.neck.update(in_channels=channels, out_channels=8)
    if model.type == 'MaskRCNN':
        model.rpn_head.update(in_channels=8, feat_channels=8)
        for part in ('bbox', 'mask'):
            model.roi_head[f'{part}_roi_extractor'].out_channels = 8
            model.roi_head[f'{part}_head'].in_channels = 8
        model.roi_head.bbox_head.fc_out_channels = 8
        model.roi_head.mask_head.conv_out_channels = 8
    elif 'neck' in model:
        model.decode_head.update(in_channels=[8] * 4, channels=8)
    else:
        model.decode_head.update(in_channels=channels, channels=8)
        model.auxiliary_head.update(in_channels=channels[2], channels=8)
    return build_model(model, cfg.default_scope)


def norms_from_1(weights: dict) -> dict:
    """As CSwin's authors count the backbone's output norms."""
    others = {key: value for key, value in weights.items() if 'backbone.norm' not in key}
    for stage in range(4):
        for part in ('weight', 'bias'):
            norm = weights[f'backbone.norm{stage}.{part}']
            others[f'backbone.norm{stage + 1}.{part}'] = norm
    return others


def older(model: nn.Module) -> dict:
    """As mmcv's runner saved: what the model was trained with, and Swin's buffers."""
    weights = {key: torch.randn_like(value.float()) for key, value in model.state_dict().items()}
    for key in list(weights):
        if key.endswith('relative_position_bias_table'):
            index = key.replace('bias_table', 'index')
            weights[index] = torch.zeros(49, 49, dtype=torch.long)
    meta = dict(
        mmdet_version='2.28.2',
        config='model = dict()\n',
        CLASSES=('person', 'bicycle'),
        PALETTE=[(220, 20, 60), (119, 11, 32)],
        epoch=12,
        iter=87960,
        env_info='sys.platform: linux',
        hook_msgs={},
        seed=0,
    )
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    return dict(meta=meta, state_dict=weights, optimizer=optimizer)


@pytest.mark.parametrize('path', FAMILIES)
def test_they_are_loaded_whole(path, tmp_path):
    model = narrow(path)
    heads = {key for key in model.state_dict() if not key.startswith('backbone.')}
    assert heads == FAMILIES[path]
    checkpoint = older(model)
    file = tmp_path / 'older.pth'
    saved = dict(checkpoint)
    if 'cswin' in path:
        saved['state_dict'] = norms_from_1(checkpoint['state_dict'])
    torch.save(saved, file)
    meta = load_weights(model, str(file))
    assert meta['epoch'] == 12
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint['state_dict'][key].to(value.dtype)), key


@pytest.mark.parametrize('harm', ['more', 'less'])
def test_anything_else_is_refused(harm, tmp_path):
    model = narrow(next(iter(FAMILIES)))
    checkpoint = older(model)
    if harm == 'more':
        checkpoint['state_dict']['backbone.block1.0.attn.relative_position'] = torch.zeros(1)
    else:
        del checkpoint['state_dict']['backbone.block1.0.attn.an_bias']
    file = tmp_path / 'older.pth'
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match='is of another model: 1 '):
        load_weights(model, str(file))

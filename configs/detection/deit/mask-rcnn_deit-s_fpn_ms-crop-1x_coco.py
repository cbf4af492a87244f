# Mask R-CNN, DeiT small, FPN, multi-scale crop, 12 epochs on COCO: the softmax counterpart of
# InLine-DeiT small.
_base_ = '../inline_deit/mask-rcnn_inline-deit-s_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='vit-small',
        init_cfg=dict(checkpoint='pretrained/deit_small.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 384]),
)

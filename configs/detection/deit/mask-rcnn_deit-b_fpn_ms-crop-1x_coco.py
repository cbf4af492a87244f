# Mask R-CNN, DeiT base, FPN, multi-scale crop, 12 epochs on COCO: the softmax counterpart of
# InLine-DeiT base.
_base_ = '../inline_deit/mask-rcnn_inline-deit-b_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='vit-base',
        init_cfg=dict(checkpoint='pretrained/deit_base.pth'),
    ),
    neck=dict(in_channels=[192, 384, 768, 768]),
)

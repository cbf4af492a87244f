# Mask R-CNN, InLine-DeiT base, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './mask-rcnn_inline-deit-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='pretrained/inline_deit_base.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 384]),
)

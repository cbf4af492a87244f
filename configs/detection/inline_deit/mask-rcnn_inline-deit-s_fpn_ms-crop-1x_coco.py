# Mask R-CNN, InLine-DeiT small, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './mask-rcnn_inline-deit-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_deit_small.pth'),
    ),
    neck=dict(in_channels=[80, 160, 320, 320]),
)

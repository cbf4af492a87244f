# Mask R-CNN, InLine-CSwin base, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './mask-rcnn_inline-cswin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.4,
        init_cfg=dict(checkpoint='pretrained/inline_cswin_base.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

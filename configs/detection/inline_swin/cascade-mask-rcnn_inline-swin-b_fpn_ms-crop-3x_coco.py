# Cascade Mask R-CNN, InLine-Swin base, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = './cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.4,
        init_cfg=dict(checkpoint='pretrained/inline_swin_base.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

# Cascade Mask R-CNN, InLine-Swin small, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = './cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_swin_small.pth'),
    ),
)

# Cascade Mask R-CNN, InLine-CSwin small, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = './cascade-mask-rcnn_inline-cswin-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_cswin_small.pth'),
    ),
)

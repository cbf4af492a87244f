# Mask R-CNN, InLine-CSwin small, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './mask-rcnn_inline-cswin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_cswin_small.pth'),
    ),
)

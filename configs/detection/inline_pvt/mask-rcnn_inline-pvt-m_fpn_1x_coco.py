# Mask R-CNN, InLine-PVT medium, FPN, 12 epochs on COCO.
_base_ = './mask-rcnn_inline-pvt-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='medium',
        init_cfg=dict(checkpoint='pretrained/inline_pvt_medium.pth'),
    ),
)

# Mask R-CNN, FLatten-PVT tiny, FPN, 12 epochs on COCO.
_base_ = '../inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention='focused',
        init_cfg=dict(checkpoint='pretrained/flatten_pvt_tiny.pth'),
    ),
)

# Mask R-CNN, PVT tiny, FPN, 12 epochs on COCO: the softmax twin of InLine-PVT tiny.
_base_ = '../inline_pvt/mask-rcnn_inline-pvt-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/pvt_tiny.pth'),
    ),
)

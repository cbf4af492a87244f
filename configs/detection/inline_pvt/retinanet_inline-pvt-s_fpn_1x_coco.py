# RetinaNet, InLine-PVT small, FPN, 12 epochs on COCO.
_base_ = './retinanet_inline-pvt-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_pvt_small.pth'),
    ),
)

# RetinaNet, InLine-PVT large, FPN, 12 epochs on COCO.
_base_ = './retinanet_inline-pvt-t_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='pretrained/inline_pvt_large.pth'),
    ),
)

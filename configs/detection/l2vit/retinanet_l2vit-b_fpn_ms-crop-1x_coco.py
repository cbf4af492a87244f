# RetinaNet, L2ViT base, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './retinanet_l2vit-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='pretrained/l2vit_base.pth'),
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)

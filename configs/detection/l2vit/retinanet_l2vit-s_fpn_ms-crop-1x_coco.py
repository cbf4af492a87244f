# RetinaNet, L2ViT small, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = './retinanet_l2vit-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/l2vit_small.pth'),
    ),
)

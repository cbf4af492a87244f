# Mask R-CNN, L2ViT base, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = './mask-rcnn_l2vit-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='pretrained/l2vit_base.pth'),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

# Mask R-CNN, L2ViT small, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = './mask-rcnn_l2vit-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/l2vit_small.pth'),
    ),
)

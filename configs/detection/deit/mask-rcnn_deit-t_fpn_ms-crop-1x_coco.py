# Mask R-CNN, DeiT tiny, FPN, multi-scale crop, 12 epochs on COCO: the softmax counterpart of
# InLine-DeiT tiny.
_base_ = '../inline_deit/mask-rcnn_inline-deit-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='vit-tiny',
        init_cfg=dict(checkpoint='pretrained/deit_tiny.pth'),
    ),
)

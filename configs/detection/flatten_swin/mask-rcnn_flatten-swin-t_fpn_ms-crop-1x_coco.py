# Mask R-CNN, FLatten-Swin tiny, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = '../inline_swin/mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        attention=['focused', 'focused', 'softmax', 'softmax'],
        init_cfg=dict(checkpoint='pretrained/flatten_swin_tiny.pth'),
    ),
)

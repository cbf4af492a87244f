# Mask R-CNN, Swin small, FPN, multi-scale crop, 12 epochs on COCO: the softmax twin of
# InLine-Swin small.
_base_ = '../inline_swin/mask-rcnn_inline-swin-s_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/swin_small.pth'),
    ),
)

# Cascade Mask R-CNN, Swin tiny, FPN, multi-scale crop, 12 epochs on COCO: the softmax twin of
# InLine-Swin tiny.
_base_ = '../inline_swin/cascade-mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/swin_tiny.pth'),
    ),
)

# Cascade Mask R-CNN, Swin small, FPN, multi-scale crop, 36 epochs on COCO: the softmax twin of
# InLine-Swin small.
# Swin's own repository has drop path 0.2 at 3x, not 0.1.
_base_ = '../inline_swin/cascade-mask-rcnn_inline-swin-s_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/swin_small.pth'),
    ),
)

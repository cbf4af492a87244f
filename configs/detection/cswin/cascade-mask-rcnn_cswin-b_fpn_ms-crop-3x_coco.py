# Cascade Mask R-CNN, CSwin base, FPN, multi-scale crop, 36 epochs on COCO: the softmax twin of
# InLine-CSwin base.
_base_ = '../inline_cswin/cascade-mask-rcnn_inline-cswin-b_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='cswin-base',
        init_cfg=dict(checkpoint='pretrained/cswin_base.pth'),
    ),
)

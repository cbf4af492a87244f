# Mask R-CNN, CSwin base, FPN, multi-scale crop, 12 epochs on COCO: the softmax twin of
# InLine-CSwin base.
_base_ = '../inline_cswin/mask-rcnn_inline-cswin-b_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='cswin-base',
        init_cfg=dict(checkpoint='pretrained/cswin_base.pth'),
    ),
)

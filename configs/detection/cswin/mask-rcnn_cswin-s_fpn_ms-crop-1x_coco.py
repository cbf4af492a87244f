# Mask R-CNN, CSwin small, FPN, multi-scale crop, 12 epochs on COCO: the softmax twin of
# InLine-CSwin small.
_base_ = '../inline_cswin/mask-rcnn_inline-cswin-s_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='cswin-small',
        init_cfg=dict(checkpoint='pretrained/cswin_small.pth'),
    ),
)

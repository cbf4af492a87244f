# Mask R-CNN, CSwin tiny, FPN, multi-scale crop, 12 epochs on COCO: the softmax twin of
# InLine-CSwin tiny.
_base_ = '../inline_cswin/mask-rcnn_inline-cswin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        arch='cswin-tiny',
        init_cfg=dict(checkpoint='pretrained/cswin_tiny.pth'),
    ),
)

# Cascade Mask R-CNN, CSwin tiny, FPN, multi-scale crop, 36 epochs on COCO: the softmax twin of
# InLine-CSwin tiny.
_base_ = '../inline_cswin/cascade-mask-rcnn_inline-cswin-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        arch='cswin-tiny',
        init_cfg=dict(checkpoint='pretrained/cswin_tiny.pth'),
    ),
)

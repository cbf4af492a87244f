# Mask R-CNN, PVT small, FPN, 12 epochs on COCO: the softmax twin of InLine-PVT small.
_base_ = '../inline_pvt/mask-rcnn_inline-pvt-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='pretrained/pvt_small.pth'),
    ),
)

# Mask R-CNN, PVT large, FPN, 12 epochs on COCO: the softmax twin of InLine-PVT large.
# PVT's own repository trains large at 2e-4 / 1.4 with 8 images a step; here it is the rate and
# batch of the InLine row, so that a comparison changes one thing.
_base_ = '../inline_pvt/mask-rcnn_inline-pvt-l_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='pretrained/pvt_large.pth'),
    ),
)

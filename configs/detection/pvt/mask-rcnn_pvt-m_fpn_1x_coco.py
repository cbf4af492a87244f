# Mask R-CNN, PVT medium, FPN, 12 epochs on COCO: the softmax twin of InLine-PVT medium.
_base_ = '../inline_pvt/mask-rcnn_inline-pvt-m_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention='softmax',
        drop_path_rate=0.0,
        init_cfg=dict(checkpoint='pretrained/pvt_medium.pth'),
    ),
)

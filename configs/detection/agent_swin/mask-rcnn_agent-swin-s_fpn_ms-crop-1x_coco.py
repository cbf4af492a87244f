# Mask R-CNN, Agent-Swin small, FPN, multi-scale crop, 12 epochs on COCO.
_base_ = '../inline_swin/mask-rcnn_inline-swin-s_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        attention=[
            dict(type='agent', agent_grid=(9, 9)),
            dict(type='agent', agent_grid=(12, 12)),
            'softmax',
            'softmax',
        ],
        init_cfg=dict(checkpoint='pretrained/agent_swin_small.pth'),
    ),
)

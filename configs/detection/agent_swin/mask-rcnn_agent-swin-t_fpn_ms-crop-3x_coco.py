# Mask R-CNN, Agent-Swin tiny, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = '../inline_swin/mask-rcnn_inline-swin-t_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        attention=[
            dict(type='agent', agent_grid=(9, 9)),
            dict(type='agent', agent_grid=(12, 12)),
            dict(type='agent', agent_grid=(14, 14)),
            'softmax',
        ],
        init_cfg=dict(checkpoint='pretrained/agent_swin_tiny.pth'),
    ),
)

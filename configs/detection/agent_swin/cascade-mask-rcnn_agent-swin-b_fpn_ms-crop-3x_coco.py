# Cascade Mask R-CNN, Agent-Swin base, FPN, multi-scale crop, 36 epochs on COCO.
_base_ = '../inline_swin/cascade-mask-rcnn_inline-swin-b_fpn_ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        attention=[
            dict(type='agent', agent_grid=(9, 9)),
            dict(type='agent', agent_grid=(12, 12)),
            [dict(type='agent', agent_grid=(14, 14))] * 2 + ['softmax'] * 16,
            'softmax',
        ],
        init_cfg=dict(checkpoint='pretrained/agent_swin_base.pth'),
    ),
)

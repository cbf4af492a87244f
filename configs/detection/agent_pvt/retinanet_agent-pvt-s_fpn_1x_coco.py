# RetinaNet, Agent-PVT small, FPN, 12 epochs on COCO.
_base_ = '../inline_pvt/retinanet_inline-pvt-s_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        attention=[
            dict(type='agent', agent_grid=(12, 12)),
            dict(type='agent', agent_grid=(16, 16)),
            dict(type='agent', agent_grid=(28, 28)),
            dict(type='agent', agent_grid=(28, 28)),
        ],
        init_cfg=dict(checkpoint='pretrained/agent_pvt_small.pth'),
    ),
)

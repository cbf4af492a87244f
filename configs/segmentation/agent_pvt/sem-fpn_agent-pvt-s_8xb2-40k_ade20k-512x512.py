# Semantic FPN, Agent-PVT small, 40k iterations on ADE20K.
_base_ = '../inline_pvt/sem-fpn_inline-pvt-s_8xb2-40k_ade20k-512x512.py'

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

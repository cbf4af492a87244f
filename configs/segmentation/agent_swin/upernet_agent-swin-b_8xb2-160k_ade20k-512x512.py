# UperNet, Agent-Swin base, 160k iterations on ADE20K.
_base_ = '../inline_swin/upernet_inline-swin-b_8xb2-160k_ade20k-512x512.py'

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

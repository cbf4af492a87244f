# UperNet, Agent-Swin small, 160k iterations on ADE20K.
_base_ = '../inline_swin/upernet_inline-swin-s_8xb2-160k_ade20k-512x512.py'

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

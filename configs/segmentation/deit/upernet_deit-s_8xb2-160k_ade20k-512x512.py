# UperNet, DeiT small, 160k iterations on ADE20K: the softmax counterpart of InLine-DeiT small.
_base_ = '../inline_deit/upernet_inline-deit-s_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='vit-small',
        init_cfg=dict(checkpoint='pretrained/deit_small.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)

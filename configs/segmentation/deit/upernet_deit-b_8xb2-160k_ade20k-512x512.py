# UperNet, DeiT base, 160k iterations on ADE20K: the softmax counterpart of InLine-DeiT base.
_base_ = '../inline_deit/upernet_inline-deit-b_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='vit-base',
        init_cfg=dict(checkpoint='pretrained/deit_base.pth'),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 768]),
    auxiliary_head=dict(in_channels=768),
)

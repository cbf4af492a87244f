# UperNet, InLine-DeiT small, 160k iterations on ADE20K.
_base_ = './upernet_inline-deit-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_deit_small.pth'),
    ),
    decode_head=dict(in_channels=[80, 160, 320, 320]),
    auxiliary_head=dict(in_channels=320),
)

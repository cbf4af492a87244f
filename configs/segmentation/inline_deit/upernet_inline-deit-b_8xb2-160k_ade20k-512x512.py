# UperNet, InLine-DeiT base, 160k iterations on ADE20K.
_base_ = './upernet_inline-deit-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='pretrained/inline_deit_base.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)

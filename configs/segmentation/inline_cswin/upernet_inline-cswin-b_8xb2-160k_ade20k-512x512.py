# UperNet, InLine-CSwin base, 160k iterations on ADE20K.
_base_ = './upernet_inline-cswin-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,
        init_cfg=dict(checkpoint='pretrained/inline_cswin_base.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# UperNet, InLine-Swin small, 160k iterations on ADE20K.
_base_ = './upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/inline_swin_small.pth'),
    ),
)

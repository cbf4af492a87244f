# UperNet, InLine-CSwin small, 160k iterations on ADE20K.
_base_ = './upernet_inline-cswin-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.4,
        init_cfg=dict(checkpoint='pretrained/inline_cswin_small.pth'),
    ),
)

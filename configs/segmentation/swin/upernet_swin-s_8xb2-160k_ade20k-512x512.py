# UperNet, Swin small, 160k iterations on ADE20K: the softmax twin of InLine-Swin small.
_base_ = '../inline_swin/upernet_inline-swin-s_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/swin_small.pth'),
    ),
)

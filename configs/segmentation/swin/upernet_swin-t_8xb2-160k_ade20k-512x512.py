# UperNet, Swin tiny, 160k iterations on ADE20K: the softmax twin of InLine-Swin tiny.
_base_ = '../inline_swin/upernet_inline-swin-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/swin_tiny.pth'),
    ),
)

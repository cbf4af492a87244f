# UperNet, DeiT tiny, 160k iterations on ADE20K: the softmax counterpart of InLine-DeiT tiny.
_base_ = '../inline_deit/upernet_inline-deit-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='vit-tiny',
        init_cfg=dict(checkpoint='pretrained/deit_tiny.pth'),
    ),
)

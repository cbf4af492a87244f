# UperNet, CSwin tiny, 160k iterations on ADE20K: the softmax twin of InLine-CSwin tiny.
_base_ = '../inline_cswin/upernet_inline-cswin-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='cswin-tiny',
        init_cfg=dict(checkpoint='pretrained/cswin_tiny.pth'),
    ),
)

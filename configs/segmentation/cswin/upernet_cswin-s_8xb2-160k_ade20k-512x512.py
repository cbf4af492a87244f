# UperNet, CSwin small, 160k iterations on ADE20K: the softmax twin of InLine-CSwin small.
_base_ = '../inline_cswin/upernet_inline-cswin-s_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='cswin-small',
        init_cfg=dict(checkpoint='pretrained/cswin_small.pth'),
    ),
)

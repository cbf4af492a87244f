# UperNet, CSwin base, 160k iterations on ADE20K: the softmax twin of InLine-CSwin base.
_base_ = '../inline_cswin/upernet_inline-cswin-b_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='cswin-base',
        init_cfg=dict(checkpoint='pretrained/cswin_base.pth'),
    ),
)

# UperNet, Swin base, 160k iterations on ADE20K: the softmax twin of InLine-Swin base.
_base_ = '../inline_swin/upernet_inline-swin-b_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention='softmax',
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='pretrained/swin_base.pth'),
    ),
)

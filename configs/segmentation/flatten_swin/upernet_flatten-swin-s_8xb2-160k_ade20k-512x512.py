# UperNet, FLatten-Swin small, 160k iterations on ADE20K.
_base_ = '../inline_swin/upernet_inline-swin-s_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention=['focused', 'focused', 'softmax', 'softmax'],
        init_cfg=dict(checkpoint='pretrained/flatten_swin_small.pth'),
    ),
)

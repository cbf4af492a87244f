# Semantic FPN, FLatten-PVT tiny, 40k iterations on ADE20K.
_base_ = '../inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention='focused',
        init_cfg=dict(checkpoint='pretrained/flatten_pvt_tiny.pth'),
    ),
)

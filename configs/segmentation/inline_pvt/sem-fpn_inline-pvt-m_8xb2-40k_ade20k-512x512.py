# Semantic FPN, InLine-PVT medium, 40k iterations on ADE20K.
_base_ = './sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='medium',
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='pretrained/inline_pvt_medium.pth'),
    ),
)

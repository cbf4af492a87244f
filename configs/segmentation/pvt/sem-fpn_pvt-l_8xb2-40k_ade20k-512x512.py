# Semantic FPN, PVT large, 40k iterations on ADE20K: the softmax twin of InLine-PVT large.
# PVT's own repository takes 32 images a step at the same rate, not 16.
_base_ = '../inline_pvt/sem-fpn_inline-pvt-l_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention='softmax',
        init_cfg=dict(checkpoint='pretrained/pvt_large.pth'),
    ),
)

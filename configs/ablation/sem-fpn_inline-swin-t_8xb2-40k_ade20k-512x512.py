# Semantic FPN, InLine-Swin tiny, 40k iterations on ADE20K: what the other configs here change.
# The recipe is that of Semantic FPN with InLine-PVT. Of most rows there are no ImageNet weights, so
# all start from random ones.
_base_ = '../segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(_delete_=True, type='mmlab_inline.InLineSwin', arch='tiny', drop_path_rate=0.1),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

# UperNet, L2ViT small, 160k iterations on ADE20K.
_base_ = './upernet_l2vit-t_8xb2-160k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(checkpoint='pretrained/l2vit_small.pth'),
    ),
)

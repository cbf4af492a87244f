# Semantic FPN on a narrow InLine-PVT and drawn shapes, in which attentions are compared.
_base_ = '../demo/sem-fpn_inline-swin-demo_shapes.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLinePVT',
        arch=dict(
            embed_dims=(32, 64, 160, 256),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(4, 4, 4, 4),
        ),
        pretrain_img_size=160,
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 160, 256]),
)

# 600 iterations * 2 images: an epoch. Batches of 2 learn more of it than batches of 8.
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=50, end=600, by_epoch=False),
]
default_hooks = dict(checkpoint=dict(interval=600))

# Semantic FPN, InLine-PVT tiny, 40k iterations on ADE20K.
# Schedule: 40k iterations * 16 images (8 GPUs x 2) / 20210 images = 31.7 epochs, poly 0.9, no
# warm-up. The recipe is PVT's; PVT's own repository takes 32 images a step at the same rate.
_base_ = [
    '../_base_/sem-fpn.py',
    '../_base_/ade20k_512x512.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmlab_inline.InLinePVT',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_pvt_tiny.pth'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)

train_cfg = dict(max_iters=40000, val_interval=4000)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=1e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)

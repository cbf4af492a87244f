# UperNet, InLine-DeiT tiny, 160k iterations on ADE20K.
# Schedule: 160k iterations * 16 images (8 GPUs x 2) / 20210 images = 126.7 epochs; 1500 iterations
# of warm-up from 1e-6 of the rate, then linear to zero. Nobody has published a recipe: this one is
# InLine-Swin's, with the drop path rate of the classifiers.
_base_ = [
    '../_base_/upernet.py',
    '../_base_/ade20k_512x512.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmlab_inline.InLineDeiT',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_deit_tiny.pth'),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 192]),
    auxiliary_head=dict(in_channels=192),
)

train_cfg = dict(max_iters=160000, val_interval=16000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    constructor='mmlab_inline.BackboneConstructor',
    paramwise_cfg=dict(
        declared_no_decay=True,  # position biases and the like, which attentions name
        custom_keys={'norm': dict(decay_mult=0.0)},
    ),
)
default_hooks = dict(checkpoint=dict(interval=16000))
auto_scale_lr = dict(enable=False, base_batch_size=16)

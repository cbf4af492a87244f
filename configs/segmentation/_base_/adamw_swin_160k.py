# Swin's optimizer for UperNet, and its schedule of 160k iterations: 160k iterations * 16 images (8
# GPUs x 2) / 20210 images = 126.7 epochs; 1500 iterations of warm-up from 1e-6 of the rate, then
# linear to zero. max_iters and the intervals come from the config that builds on this.
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
auto_scale_lr = dict(enable=False, base_batch_size=16)

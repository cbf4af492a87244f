# UperNet, L2ViT tiny, 160k iterations on ADE20K.
# The recipe is that of L2ViT's repository: Swin's, but everything is decayed. Its heads have
# BatchNorm of one GPU, here synchronised.
_base_ = [
    '../_base_/upernet.py',
    '../_base_/ade20k_512x512.py',
    '../_base_/adamw_swin_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmlab_inline.L2ViT',
        arch='tiny',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/l2vit_tiny.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

train_cfg = dict(max_iters=160000, val_interval=16000)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
)
default_hooks = dict(checkpoint=dict(interval=16000))
# BatchNorm is each GPU's own: all evaluate with what the checkpoint holds.
custom_hooks = [dict(type='mmlab_inline.BroadcastStatisticsHook')]

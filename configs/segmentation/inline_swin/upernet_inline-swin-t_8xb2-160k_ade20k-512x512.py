# UperNet, InLine-Swin tiny, 160k iterations on ADE20K. The recipe is Swin's.
_base_ = [
    '../_base_/upernet.py',
    '../_base_/ade20k_512x512.py',
    '../_base_/adamw_swin_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmlab_inline.InLineSwin',
        arch='tiny',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_swin_tiny.pth'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))

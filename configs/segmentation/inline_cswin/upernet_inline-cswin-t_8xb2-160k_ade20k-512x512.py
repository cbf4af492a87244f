# UperNet, InLine-CSwin tiny, 160k iterations on ADE20K.
# Nobody has published a recipe: this one is InLine-Swin's, with the drop path rates of CSWin's own
# configs.
_base_ = [
    '../_base_/upernet.py',
    '../_base_/ade20k_512x512.py',
    '../_base_/adamw_swin_160k.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        type='mmlab_inline.InLineCSwin',
        arch='tiny',
        drop_path_rate=0.3,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_cswin_tiny.pth'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)

train_cfg = dict(max_iters=160000, val_interval=16000)
default_hooks = dict(checkpoint=dict(interval=16000))

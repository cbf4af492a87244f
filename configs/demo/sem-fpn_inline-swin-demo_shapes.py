# Semantic FPN on a narrow InLine-Swin for the embedded drawn shapes: minutes on a CPU core.
_base_ = '../segmentation/inline_pvt/sem-fpn_inline-pvt-t_8xb2-40k_ade20k-512x512.py'

data_root = 'work_dirs/demo/data/ade/ADEChallengeData2016'
classes = ('background', 'circle', 'ring', 'cross')

model = dict(
    data_preprocessor=dict(size=(160, 160)),
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLineSwin',
        arch=dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratios=4),
        attention=('inline', 'inline', 'inline', 'softmax'),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(
        in_channels=[64, 64, 64, 64], channels=64, dropout_ratio=0.0, num_classes=len(classes)
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    img_suffix='.png',
    metainfo=dict(
        classes=classes,
        palette=[[120, 120, 120], [220, 60, 60], [60, 160, 60], [60, 90, 220]],
    ),
    reduce_zero_label=True,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(**dataset, pipeline=test_pipeline)
)
test_dataloader = val_dataloader

# 1500 iterations * 8 / 1200 images = 10 epochs.
train_cfg = dict(max_iters=1500, val_interval=1500)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=50, end=1500, by_epoch=False),
]
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=1500, max_keep_ckpts=1, save_best=None)
)

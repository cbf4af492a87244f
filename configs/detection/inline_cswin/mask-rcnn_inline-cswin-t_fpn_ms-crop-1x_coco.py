# Mask R-CNN, InLine-CSwin tiny, FPN, multi-scale crop, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11, 500 iterations of warm-up.
# Nobody has published a recipe: this one is InLine-Swin's.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/coco_instance_ms-crop.py',
    '../_base_/adamw_swin_3x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLineCSwin',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_cswin_tiny.pth'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/segm_mAP'))

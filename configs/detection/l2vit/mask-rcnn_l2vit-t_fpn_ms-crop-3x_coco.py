# Mask R-CNN, L2ViT tiny, FPN, multi-scale crop, 36 epochs on COCO.
# Schedule: 36 epochs * 117k images / 16 images (8 GPUs x 2) = 264k iterations, lr / 10 after
# epochs 27 and 33, 500 iterations of warm-up. The recipe is that of L2ViT's repository: Swin's, but
# everything is decayed.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/coco_instance_ms-crop.py',
    '../_base_/adamw_swin_3x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.L2ViT',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/l2vit_tiny.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/segm_mAP'))
# BatchNorm is each GPU's own: all evaluate with what the checkpoint holds.
custom_hooks = [dict(type='mmlab_inline.BroadcastStatisticsHook')]

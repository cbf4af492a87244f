# RetinaNet, L2ViT tiny, FPN, multi-scale crop, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11, 500 iterations of warm-up. The recipe is that of L2ViT's repository.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/coco_instance_ms-crop.py',
    '../_base_/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.L2ViT',
        arch='tiny',
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/l2vit_tiny.pth'),
    ),
    # The pyramid begins at the second stage (stride 8), which is the first that comes.
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)

# Boxes alone, of the instances.
load_boxes = dict(type='LoadAnnotations', with_bbox=True)
train_pipeline = [_base_.train_pipeline[0], load_boxes, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:2], load_boxes, _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric='bbox')
test_evaluator = val_evaluator

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
# BatchNorm is each GPU's own: all evaluate with what the checkpoint holds.
custom_hooks = [dict(type='mmlab_inline.BroadcastStatisticsHook')]
auto_scale_lr = dict(base_batch_size=16)

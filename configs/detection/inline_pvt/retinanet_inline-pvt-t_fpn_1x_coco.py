# RetinaNet, InLine-PVT tiny, FPN, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11, 500 iterations of warm-up.
# InLine's own detection recipe is unpublished: this one is Agent-PVT's, of the same laboratory.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedule_1x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLinePVT',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_pvt_tiny.pth'),
    ),
    # The pyramid begins at the second stage (stride 8), but FPN is told of all four.
    neck=dict(in_channels=[64, 128, 320, 512]),
)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-4),
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
auto_scale_lr = dict(base_batch_size=16)

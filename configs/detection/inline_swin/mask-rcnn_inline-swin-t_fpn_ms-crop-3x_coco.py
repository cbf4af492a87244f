# Mask R-CNN, InLine-Swin tiny, FPN, multi-scale crop, 36 epochs on COCO.
# Schedule: 36 epochs * 117k images / 16 images (8 GPUs x 2) = 264k iterations, lr / 10 after
# epochs 27 and 33, 500 iterations of warm-up.
# InLine's own detection recipe is unpublished: this one is Swin's, as its laboratory's sibling
# ports (Agent-Swin) use it.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/coco_instance_ms-crop.py',
    '../_base_/adamw_swin_3x.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLineSwin',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_swin_tiny.pth'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/segm_mAP'))

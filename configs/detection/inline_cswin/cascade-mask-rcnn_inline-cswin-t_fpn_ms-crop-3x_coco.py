# Cascade Mask R-CNN, InLine-CSwin tiny, FPN, multi-scale crop, 36 epochs on COCO.
# Schedule: 36 epochs * 117k images / 16 images (8 GPUs x 2) = 264k iterations, lr / 10 after
# epochs 27 and 33, 500 iterations of warm-up.
# Nobody has published a recipe: this one is InLine-Swin's.
_base_ = [
    '../_base_/cascade-mask-rcnn_4conv1fc.py',
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

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/segm_mAP'))

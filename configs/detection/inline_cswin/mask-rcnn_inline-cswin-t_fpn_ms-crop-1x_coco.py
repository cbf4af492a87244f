# Mask R-CNN, InLine-CSwin tiny, FPN, multi-scale crop, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11, 500 iterations of warm-up.
# Nobody has published a recipe: this one is InLine-Swin's.
_base_ = '../inline_swin/mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco.py'

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

# Mask R-CNN, InLine-DeiT tiny, FPN, multi-scale crop, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11, 500 iterations of warm-up.
# Nobody has published a recipe: this one is InLine-Swin's, with rates that fall towards the image
# as ViTDet's do.
_base_ = '../inline_swin/mask-rcnn_inline-swin-t_fpn_ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmlab_inline.InLineDeiT',
        arch='tiny',
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/inline_deit_tiny.pth'),
    ),
    neck=dict(in_channels=[48, 96, 192, 192]),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.8))

# Mask R-CNN, L2ViT base, FPN, multi-scale crop, 12 epochs on COCO.
# Schedule: 12 epochs * 117k images / 16 images (8 GPUs x 2) = 88k iterations, lr / 10 after
# epochs 8 and 11.
_base_ = './mask-rcnn_l2vit-b_fpn_ms-crop-3x_coco.py'

model = dict(backbone=dict(drop_path_rate=0.2))

train_cfg = dict(max_epochs=12)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

# Mask R-CNN on a narrow InLine-PVT and drawn shapes, in which attentions are compared.
_base_ = '../demo/mask-rcnn_inline-pvt-demo_shapes.py'

model = dict(backbone=dict(pretrain_img_size=160))

# 800 images / 4 = 200 iterations. Batches of 4 learn more of them than batches of 8.
train_dataloader = dict(batch_size=4, dataset=dict(indices=800))
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        T_max=1,
        end=1,
        eta_min=1e-5,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(interval=1))

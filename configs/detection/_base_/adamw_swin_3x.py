# Swin's detection optimizer, and its 3x schedule.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(type='mmlab_inline.ResumableEpochBasedTrainLoop', max_epochs=36)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='mmlab_inline.BackboneConstructor',
    paramwise_cfg=dict(
        declared_no_decay=True,  # position biases and the like, which attentions name
        custom_keys={'norm': dict(decay_mult=0.0)},
    ),
)
auto_scale_lr = dict(base_batch_size=16)

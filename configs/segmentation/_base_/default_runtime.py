# Hooks, loops, visualizer and environment of every segmentation run, which can be killed at any
# moment and continued exactly, and leaves curves and a report. _scope_ says whose types these are
# also where the file is inherited as mmlab_inline::.
default_scope = 'mmseg'
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmlab_inline.AtomicCheckpointHook',
        by_epoch=False,
        interval=4000,
        max_keep_ckpts=3,
        save_best='mIoU',
    ),
    termination=dict(type='mmlab_inline.TerminationHook'),
    non_finite_loss=dict(type='mmlab_inline.NonFiniteLossHook', on_non_finite='stop'),
    progress=dict(type='mmlab_inline.ProgressHook'),
    curves=dict(type='mmlab_inline.CurvesHook'),
    report=dict(type='mmlab_inline.ReportHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(_scope_='mmseg', type='SegVisualizationHook'),
)
train_cfg = dict(type='mmlab_inline.ResumableIterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
vis_backends = [dict(type='LocalVisBackend'), dict(type='mmlab_inline.TensorBoardScalars')]
visualizer = dict(
    _scope_='mmseg', type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer'
)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

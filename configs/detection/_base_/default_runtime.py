# mmdet's runtime, with runs that can be killed at any moment and continued exactly, and that leave
# curves and a report.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    # Metrics over iterations, as the losses are.
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(type='mmlab_inline.AtomicCheckpointHook'),
    termination=dict(type='mmlab_inline.TerminationHook'),
    non_finite_loss=dict(type='mmlab_inline.NonFiniteLossHook', on_non_finite='stop'),
    progress=dict(type='mmlab_inline.ProgressHook'),
    curves=dict(type='mmlab_inline.CurvesHook'),
    report=dict(type='mmlab_inline.ReportHook'),
)
vis_backends = [dict(type='LocalVisBackend'), dict(type='mmlab_inline.TensorBoardScalars')]
visualizer = dict(vis_backends=vis_backends)

# mmdet's runtime, with runs that can be killed at any moment and continued exactly.
_base_ = 'mmdet::_base_/default_runtime.py'

default_hooks = dict(
    checkpoint=dict(type='mmlab_inline.AtomicCheckpointHook'),
    termination=dict(type='mmlab_inline.TerminationHook'),
    non_finite_loss=dict(type='mmlab_inline.NonFiniteLossHook', on_non_finite='stop'),
)

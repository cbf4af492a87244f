# mmdet's 1x schedule, by a loop that resumes exactly.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

train_cfg = dict(type='mmlab_inline.ResumableEpochBasedTrainLoop')

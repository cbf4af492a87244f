"""What stands around a run: its folder, what a person sees of it, its settings and metrics."""

from .amp import (
    amp_dtype,
    check_amp,
    confine_autocast,
    describe_amp,
    enable_amp,
    has_bfloat16_instructions,
    replaced,
)
from .leftovers import check_leftovers
from .loaders import without_contradictions
from .metrics import check_metric_names, metric_names, prepare_metrics
from .parts import check_parts
from .screen import ProgressHook, import_quietly, silenced, tidy_screen
from .work_dir import (
    INTERRUPTED,
    LAST_CHECKPOINT,
    iterations_done,
    work_dir_of_test,
    work_dir_of_training,
)

__all__ = [
    'INTERRUPTED',
    'LAST_CHECKPOINT',
    'ProgressHook',
    'amp_dtype',
    'check_amp',
    'check_leftovers',
    'check_metric_names',
    'check_parts',
    'confine_autocast',
    'describe_amp',
    'enable_amp',
    'has_bfloat16_instructions',
    'import_quietly',
    'iterations_done',
    'metric_names',
    'prepare_metrics',
    'replaced',
    'silenced',
    'tidy_screen',
    'without_contradictions',
    'work_dir_of_test',
    'work_dir_of_training',
]

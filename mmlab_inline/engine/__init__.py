"""What a run needs beyond mmengine: checked configs, exact resuming, whole checkpoints."""

from ..cli import ArgumentParser
from .allocator import keep_freed_memory
from .backbone_constructor import BackboneConstructor, LayerDecayConstructor
from .checkpoint_hook import AtomicCheckpointHook
from .config import check_options, drop_pretrained, load_config
from .fsdp import ShardedStrategy, StrategyRunner
from .load_from import prepare_load_from
from .model import build_model, load_weights
from .non_finite_loss_hook import NonFiniteLossHook
from .preflight import check_data, check_pretrained
from .processes import (
    BroadcastStatisticsHook,
    end_processes,
    errors_of_other_processes,
    load_run_config,
    start_processes,
)
from .resume import find_checkpoint, is_whole
from .safe_loading import use_safe_loading
from .termination_hook import TerminationHook
from .train_loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop

__all__ = [
    'ArgumentParser',
    'AtomicCheckpointHook',
    'BackboneConstructor',
    'BroadcastStatisticsHook',
    'LayerDecayConstructor',
    'NonFiniteLossHook',
    'ResumableEpochBasedTrainLoop',
    'ResumableIterBasedTrainLoop',
    'ShardedStrategy',
    'StrategyRunner',
    'TerminationHook',
    'build_model',
    'check_data',
    'check_options',
    'check_pretrained',
    'drop_pretrained',
    'end_processes',
    'errors_of_other_processes',
    'find_checkpoint',
    'is_whole',
    'keep_freed_memory',
    'load_config',
    'load_run_config',
    'load_weights',
    'prepare_load_from',
    'start_processes',
    'use_safe_loading',
]

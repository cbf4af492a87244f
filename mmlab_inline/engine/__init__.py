"""What a run needs beyond mmengine: checked configs and checkpoints, mixed precision on CPU."""

from .amp import enable_amp
from .cli import ArgumentParser
from .config import check_options, drop_pretrained, load_config
from .load_from import prepare_load_from
from .preflight import check_data, check_launcher, check_pretrained, load_weights
from .safe_loading import use_safe_loading

__all__ = [
    'ArgumentParser',
    'check_data',
    'check_launcher',
    'check_options',
    'check_pretrained',
    'drop_pretrained',
    'enable_amp',
    'load_config',
    'load_weights',
    'prepare_load_from',
    'use_safe_loading',
]

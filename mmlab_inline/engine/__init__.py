"""What a run needs beyond mmengine: checked configs and checkpoints, mixed precision on CPU."""

from .amp import enable_amp
from .cli import ArgumentParser
from .config import check_options, drop_pretrained, load_config
from .preflight import check_data, check_launcher, check_pretrained, load_weights
from .runner import CheckedRunner

__all__ = [
    'ArgumentParser',
    'CheckedRunner',
    'check_data',
    'check_launcher',
    'check_options',
    'check_pretrained',
    'drop_pretrained',
    'enable_amp',
    'load_config',
    'load_weights',
]

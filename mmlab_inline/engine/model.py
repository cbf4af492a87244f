"""The model of a config or of a run."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from .. import backbones
from ..environment import HIDDEN_OPS
from ..utils import UserError, one_line


@contextmanager
def errors_of_build(what: str = 'the model') -> Iterator[None]:
    """Say in one line why a model does not build, and one that it will not run on the GPU.

    Args:
        what: What the line calls it.

    Raises:
        UserError: In place of any other error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever settings provoke
        raise UserError(
            f'{what} does not build: {one_line(error)} (MMLAB_INLINE_TRACEBACK=1 shows where)'
        ) from error
    _say_hidden_ops()


@cache  # once
def _say_hidden_ops() -> None:
    ops = sys.modules.get('mmcv._ext')  # mmdet imports it, and only detectors need it
    if (
        ops is not None
        and torch.cuda.is_available()
        and not ops.__file__.endswith('.py')
        and ops.get_compiling_cuda_version() == 'not available'
        and os.environ.get('RANK', '0') == '0'
    ):
        print(f'{HIDDEN_OPS}; rm {shlex.quote(ops.__file__)}', file=sys.stderr)


def image_channels(model: Mapping) -> int:
    """Channels of the images that the model of a config takes: its backbone's ``in_channels``."""
    return (model.get('backbone') or {}).get('in_channels', 3)


def is_own_backbone(settings: Mapping) -> bool:
    """Whether settings are of a backbone of this package, with or without the prefix."""
    return str(settings.get('type')).rpartition('.')[2] in backbones.__all__


def unwrapped_model(runner: Runner) -> nn.Module:
    """A run's model, without what shares it among processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model

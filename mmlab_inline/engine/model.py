"""The model of a config or of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from .. import backbones
from ..utils import UserError, one_line


@contextmanager
def errors_of_build(what: str = 'the model') -> Iterator[None]:
    """Say in one line why a model does not build.

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


def image_channels(model: Mapping) -> int:
    """Channels of the images that the model of a config takes: its backbone's ``in_channels``."""
    return (model.get('backbone') or {}).get('in_channels', 3)


def is_own_backbone(settings: Mapping) -> bool:
    """Whether settings are of a backbone of this package, with or without the prefix."""
    return str(settings.get('type')).rpartition('.')[2] in backbones.__all__


def unwrapped_model(runner: Runner) -> nn.Module:
    """A run's model, without what shares it among processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model

"""The model of a config or of a run, and its weights."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache

import torch
from mmengine.config import ConfigDict
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import backbones
from ..backbones.key_converters import count_norms_from_0
from ..backbones.pretrained import RECOMPUTED
from ..environment import ops_without_cuda
from ..utils import UserError, compare_state_dict, of_another_model, one_line, read_weights
from .config import drop_pretrained


def build_model(
    settings: Mapping,
    scope: str | None = None,
    device: str | torch.device | None = None,
    what: str = 'the model',
) -> nn.Module:
    """Build a model outside a run: random weights, eval mode, no SyncBN, nothing pretrained.

    Args:
        settings: Of the model, or of a part of it; left as they are.
        scope: Library that its bare types are of; by default the one in use.
        device: Where it goes; ``'meta'`` takes no memory for weights, not for a moment.
        what: What an error calls it.

    Raises:
        UserError: It does not build.
    """
    cfg = ConfigDict(model=deepcopy(settings))
    drop_pretrained(cfg)
    scoped = DefaultScope.overwrite_default_scope(scope)
    with errors_of_build(what), scoped:
        if device == 'meta':
            with _MetaWeights(), warnings.catch_warnings():
                warnings.simplefilter('ignore')
                model = MODELS.build(cfg.model)
        else:
            model = MODELS.build(cfg.model)
        model = revert_sync_batchnorm(model)
        if device is not None:
            model.to(device)
    model.eval()  # not chained: many backbones' own train() returns nothing
    return model


def load_weights(model: nn.Module, path: str) -> dict:
    """Load a checkpoint of exactly this model.

    Returns:
        What the checkpoint says about itself (``meta``); empty where it says nothing.

    Raises:
        UserError: The file is missing, unreadable, or of another model.
    """
    state_dict, meta = read_weights(path)
    own = model.state_dict()
    state_dict = as_named_here(state_dict, own)
    difference = compare_state_dict(own, state_dict)
    if difference:
        raise of_another_model(f'checkpoint {path}', difference)
    model.load_state_dict(state_dict)
    return meta


def as_named_here(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without buffers that a model computes afresh, and CSwin's norms by their names here.

    Files of mmdet 2 and mmseg 0 hold such buffers; those of CSwin's authors count norms from 1.

    Args:
        given: State dict of a file.
        own: State dict of the model; what it holds stays.
    """
    given = count_norms_from_0(given, 'backbone.')
    return {key: value for key, value in given.items() if key in own or not RECOMPUTED.search(key)}


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
    _say_ops_without_cuda()


@cache  # once
def _say_ops_without_cuda() -> None:
    ops = sys.modules.get('mmcv._ext')  # mmdet imports it, and only detectors need it
    if (
        ops is not None
        and torch.cuda.is_available()
        and ops.get_compiling_cuda_version() == 'not available'
        and os.environ.get('RANK', '0') == '0'
    ):
        compiled = '' if ops.__file__.endswith('.py') else ops.__file__
        print(ops_without_cuda(compiled), file=sys.stderr)


def image_channels(model: Mapping) -> int:
    """Channels of the images that the model of a config takes: its backbone's ``in_channels``."""
    return (model.get('backbone') or {}).get('in_channels', 3)


def is_own_backbone(settings: Mapping) -> bool:
    """Whether settings are of a backbone of this package, with or without the prefix."""
    return str(settings.get('type')).rpartition('.')[2] in backbones.__all__


def unwrapped_model(runner: Runner) -> nn.Module:
    """A run's model, without what shares it among processes."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


class _MetaWeights(TorchFunctionMode):
    """Makes parameters and buffers on the meta device.

    ``torch.device('meta')`` would also take the small tensors that constructors read numbers from,
    such as the usual ``torch.linspace(0, drop_path_rate, depth)``.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs['device'] = kwargs.get('device') or 'meta'
        return func(*args, **kwargs)

"""Mixed precision, on a GPU or without one: in a model's networks, and nowhere else."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..utils import UserError

# What mmdet and mmseg call the networks of a model, beside names that end in _head.
_NETWORKS = {'backbone', 'neck', 'encoder', 'decoder'}
# These put out coordinates relative to the image, which eight bits hold to 0.4% of its size.
_EXACT = 'DETRHead'
_CPU_INFO = Path('/proc/cpuinfo')


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bfloat16 autocast on the CPU; mmengine's AmpOptimWrapper needs a GPU.

    bfloat16 has the range of float32, so the loss is not scaled.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward pass, beside what the base class does."""
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def enable_amp(cfg: Config, train: bool) -> str:
    """Turn on mixed precision: loss-scaled float16 on a GPU, else bfloat16 on the CPU.

    Args:
        cfg: The config; changed in place.
        train: Whether it is for training or for testing.

    Returns:
        A line that says which.

    Raises:
        UserError: The device or the libraries' ops do not work in it.
    """
    device = 'cuda' if torch.cuda.is_available() else get_device()
    check_amp(device, cfg.get('default_scope'))
    if not train:
        cfg.test_cfg.fp16 = True  # as mmengine calls any autocast
    elif device == 'cuda':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        scale = cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        dtype = str(cfg.optim_wrapper.get('dtype') or 'float16').removeprefix('torch.')
        scaling = 'dynamic loss scaling' if scale == 'dynamic' else f'loss_scale={scale}'
        return f'{describe_amp(device, dtype)} with {scaling}'
    else:
        cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
        for setting in ('loss_scale', 'dtype', 'use_fsdp'):  # AmpOptimWrapper's own
            cfg.optim_wrapper.pop(setting, None)
    return describe_amp(device)


def check_amp(device: str, scope: str | None) -> None:
    """Check that mixed precision reaches a device's networks, and that a library's ops work in it.

    Args:
        device: As torch names it.
        scope: The library; what of it can be imported has been.

    Raises:
        UserError: It does not, or they do not.
    """
    if device.partition(':')[0] not in ('cpu', 'cuda'):
        raise UserError(
            f'--amp: mixed precision is for the CPU and CUDA, not for {device}; leave it out'
        )
    ops = sys.modules.get('mmcv._ext')
    compiled = ops is not None and not ops.__file__.endswith('.py')
    if scope == 'mmdet' and compiled and device.startswith('cpu'):
        raise UserError(
            '--amp: the compiled ops of mmcv know no bfloat16 on a CPU; leave --amp out, or have '
            f'torchvision serve the ops: rm {shlex.quote(ops.__file__)}'
        )


def describe_amp(device: str, dtype: str = 'float16') -> str:
    """What mixed precision is on a device, in a line; ``dtype`` on a GPU."""
    if not device.startswith('cpu'):
        return f'mixed precision: {dtype} autocast on the GPU'
    line = 'mixed precision: bfloat16 autocast on the CPU'
    if not has_bfloat16_instructions():
        line += (
            ', not faster than float32 here: this processor has no instructions for bfloat16 '
            "(AMX, avx512_bf16, Arm's bf16)"
        )
    return line


def has_bfloat16_instructions() -> bool:
    """Whether the processor multiplies in bfloat16; where the system does not tell, it may."""
    if not _CPU_INFO.is_file():
        return True
    return not {'avx512_bf16', 'amx_bf16', 'bf16'}.isdisjoint(_CPU_INFO.read_text().split())


def amp_dtype(device: str) -> torch.dtype:
    """Dtype of mixed precision on a device."""
    return torch.bfloat16 if device.startswith('cpu') else torch.float16


def confine_autocast(model: nn.Module) -> None:
    """Let autocast around a model of mmdet or mmseg reach its networks alone.

    Backbone, neck and heads compute in it and give float32; LayerNorm trains in float32 in it. What
    the libraries do between them and after them stays in float32: anchors, RoIs and RoIAlign,
    matching, losses, NMS, label maps. bfloat16 holds coordinates above 512 to 4 pixels only.

    Args:
        model: Of mmengine's kind, or around one; changed for good, its parameters' names are not.
    """
    for part in model.modules():
        if isinstance(part, BaseModel) and getattr(part.forward, 'func', None) is not _confined:
            part.forward = partial(_confined, part.forward)
        elif isinstance(part, nn.LayerNorm):
            part.register_forward_pre_hook(_in_float32)


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Replace modules' ``forward`` for a while."""
    before = {module: vars(module).get('forward') for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward
            if forward is not None:
                module.forward = forward


def _confined(forward: Callable, *args: object, **settings: object) -> object:
    device = 'cuda' if torch.is_autocast_enabled('cuda') else 'cpu'
    if not torch.is_autocast_enabled(device):
        return forward(*args, **settings)
    dtype = torch.get_autocast_dtype(device)
    parts = dict(_networks(forward.__self__))
    # mmseg's heads flatten maps in ways that only one order of the values has.
    reorders = device == 'cpu' and not any(_is_kind(part, 'BaseDecodeHead') for part in parts)
    networks = {
        part: partial(_lowered, part.forward, device, dtype, reorders, reorders and name != 'neck')
        for part, name in parts.items()
    }
    with replaced(networks), torch.autocast(device, enabled=False):
        return forward(*args, **settings)


def _lowered(
    forward: Callable,
    device: str,
    dtype: torch.dtype,
    reorders: bool,
    restores: bool,
    *args: object,
    **settings: object,
) -> object:
    if reorders:
        # In bfloat16 a CPU convolves channels-last maps; PyTorch puts others in that order at each
        # convolution, as slowly as it convolves. Only maps of levels: heads flatten those of RoIs.
        args = [
            tree_map(_channels_last, arg) if isinstance(arg, list | tuple) else arg for arg in args
        ]
    with torch.autocast(device, dtype):
        out = forward(*args, **settings)
    order = torch.contiguous_format if restores else torch.preserve_format
    return tree_map(
        lambda leaf: leaf.to(torch.float32, memory_format=order) if _is_of(leaf, dtype) else leaf,
        out,
    )


def _in_float32(norm: nn.LayerNorm, inputs: tuple) -> tuple | None:
    # As CUDA's autocast does. On a CPU PyTorch sums the gradients of weight and bias in the type of
    # the input: of 16,000 tokens in bfloat16 half of the bias's is lost.
    lowered = torch.is_autocast_enabled('cpu') and torch.is_grad_enabled()
    if lowered and inputs and _is_of(inputs[0], torch.bfloat16):
        return inputs[0].float(), *inputs[1:]
    return None


def _channels_last(leaf: object) -> object:
    is_map = isinstance(leaf, Tensor) and leaf.ndim == 4
    return leaf.contiguous(memory_format=torch.channels_last) if is_map else leaf


def _is_of(leaf: object, dtype: torch.dtype) -> bool:
    return isinstance(leaf, Tensor) and leaf.dtype is dtype


def _is_kind(part: nn.Module, name: str) -> bool:
    """Whether a class of that name, of mmdet or mmseg, is among a module's."""
    return name in {base.__name__ for base in type(part).__mro__}


def _networks(parent: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The networks of a model and their names.

    Of a RoI head or a model in it those in that; each of a list.
    """
    for name, child in parent.named_children():
        if name in _NETWORKS or name.endswith('_head'):
            for stage in child if isinstance(child, nn.ModuleList) else [child]:
                if _is_kind(stage, 'BaseRoIHead'):
                    yield from _networks(stage)
                elif not _is_kind(stage, _EXACT):
                    yield stage, name
        elif isinstance(child, BaseModel):  # a student or a teacher, called by its parts
            yield from _networks(child)

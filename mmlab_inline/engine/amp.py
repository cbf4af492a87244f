"""Mixed precision, on a GPU or without one."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from ..utils import UserError


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


def enable_amp(cfg: Config) -> str:
    """Turn on mixed precision: loss-scaled float16 on a GPU, else bfloat16 on the CPU.

    Returns:
        A line that says which.

    Raises:
        UserError: A detector without a GPU.
    """
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        scale = cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        scaling = 'dynamic loss scaling' if scale == 'dynamic' else f'loss_scale={scale}'
        dtype = str(cfg.optim_wrapper.get('dtype') or 'float16').removeprefix('torch.')
        return f'mixed precision: {dtype} autocast with {scaling} on the GPU'
    if cfg.get('default_scope') == 'mmdet':
        raise UserError(
            '--amp: no GPU, and mmcv has no bfloat16 NMS and RoIAlign for the CPU; '
            'train this detector without --amp'
        )
    cfg.optim_wrapper.type = 'CPUAmpOptimWrapper'
    return 'mixed precision: no GPU, bfloat16 autocast on the CPU'

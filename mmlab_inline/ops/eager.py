"""Where the forms with a backward pass of their own may run."""

import torch
from torch import Tensor

from .compat import is_autocast_enabled_on_cpu, is_compiling, is_transforming


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether ``x`` is a float32 or float64 CPU tensor, outside autocast, compilers and exporters.

    A compiler or exporter must see plain operations, as must torch.func and forward-mode
    differentiation, and autocast decides about each of them.
    """
    return (
        not is_compiling()
        and not torch.jit.is_tracing()
        and not is_transforming()
        and x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not is_autocast_enabled_on_cpu()
    )

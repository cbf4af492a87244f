"""Where the forms with a backward pass of their own may run."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transforming() -> bool:
    """Whether torch.func or forward-mode differentiation is at work on what is computed now."""
    # No public function tells; the first is what torch.autograd.Function itself asks.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether ``x`` is a float32 or float64 CPU tensor, outside autocast, compilers and exporters.

    A compiler or exporter must see plain operations, as must torch.func and forward-mode
    differentiation, and autocast decides about each of them.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_transforming()
        and x.device.type == 'cpu'
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled('cpu')
    )

"""How torch computes at this moment, and where forms with a backward pass of their own may run."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transforming() -> bool:
    """Whether torch.func or forward-mode differentiation is at work on what is computed now."""
    # No public function tells; the first is what torch.autograd.Function itself asks.
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_capturing() -> bool:
    """Whether a CUDA graph is being captured: its replays use the memory that is used now."""
    # Asked without a driver, torch raises.
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def is_faking() -> bool:
    """Whether what is made now only stands for numbers (fake tensors, for one)."""
    return type(torch.empty(0, device='cpu')) is not Tensor


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

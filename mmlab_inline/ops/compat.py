"""What torch says of its own state, asked alike in every version from 2.1 on."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

if hasattr(torch.compiler, 'is_compiling'):  # torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    from torch._utils import is_compiling  # which that torch.compile takes for true

__all__ = [
    'is_autocast_enabled_on_cpu',
    'is_capturing',
    'is_compiling',
    'is_faking',
    'is_transforming',
]


def is_autocast_enabled_on_cpu() -> bool:
    """Whether autocast decides about the dtypes of operations on CPU tensors."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()


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

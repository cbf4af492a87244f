"""What torch says of its own state, asked alike in every version from 2.1 on."""

import torch

if hasattr(torch.compiler, 'is_compiling'):  # torch 2.3
    is_compiling = torch.compiler.is_compiling
else:
    from torch._utils import is_compiling  # which that torch.compile takes for true

__all__ = ['is_autocast_enabled_on_cpu', 'is_compiling']


def is_autocast_enabled_on_cpu() -> bool:
    """Whether autocast decides about the dtypes of operations on CPU tensors."""
    if hasattr(torch, 'get_autocast_dtype'):  # torch 2.4
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()

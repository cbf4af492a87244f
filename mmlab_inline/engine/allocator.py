"""How the C library deals with the memory that tensors on a CPU have given back."""

import ctypes
import os

import torch

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Have glibc reuse freed blocks of every size, where tensors live on a CPU.

    It asks the kernel for each block above 32 MB anew and gives it back when freed, so that a big
    map is mapped and cleared page by page in every layer: at 2048 x 2048 pixels that is a third of
    InLine-PVT-T's forward pass (docs/performance.md). The process keeps its peak memory instead,
    or what it has since :func:`return_freed_memory`.
    Nothing happens with a GPU, with another C library, or where the environment sets
    ``MALLOC_MMAP_MAX_`` itself.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt and not torch.cuda.is_available() and 'MALLOC_MMAP_MAX_' not in os.environ:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def return_freed_memory() -> None:
    """Give the kernel what is free at this moment, with glibc.

    Reading a big annotation file leaves gigabytes behind that no tensor will ever fill, and that
    every data loading process would be charged for once it writes there.
    """
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim:
        trim(0)

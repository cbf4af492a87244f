"""Whether a graph is being exported."""

import torch


def is_exporting() -> bool:
    """Whether torch.export is tracing: a branch on a size would then bake the example's size in."""
    check = getattr(torch.compiler, 'is_exporting', None)  # torch 2.7
    return check is not None and check()

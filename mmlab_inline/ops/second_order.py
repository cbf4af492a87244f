"""Gradients that have gradients, for operations with a backward pass of their own.

Such a backward pass is asked for by ``create_graph=True`` and runs where gradients are recorded;
then it is that of a plain form of the same operation: slower, and of any order.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_of_plain_form(
    plain: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor],
) -> list[Tensor | None]:
    """Gradients of ``plain(*inputs)``, differentiable in the inputs and in ``grad_outputs``.

    Args:
        plain: Made of PyTorch's own differentiable operations.
        inputs: As they were saved for the backward pass.
        grad_outputs: Gradients of the outputs.

    Returns:
        One for each input, None for one that needs none.
    """
    # Views: an input may have been computed from another, whose gradient takes no part of its.
    inputs = [x.view_as(x) for x in inputs]
    wanted = [x for x in inputs if x.requires_grad]
    found = torch.autograd.grad(
        plain(*inputs), wanted, grad_outputs, create_graph=True, allow_unused=True
    )
    found = iter(found)
    return [next(found) if x.requires_grad else None for x in inputs]

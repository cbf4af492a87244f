"""Whether a layer may be computed from its weight and bias without being called."""

from torch import nn


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a layer runs the forward of ``kind`` and nothing else.

    It does not where an adapter or a quantised layer has taken its place, or hooks wait for it.
    (A parametrised layer is plain: its weight is what the parametrisation makes.)
    """
    return (
        type(layer).forward is kind.forward
        and 'forward' not in layer.__dict__
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not layer._backward_hooks
        and not layer._backward_pre_hooks
    )

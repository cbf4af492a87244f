"""Whether a layer may be computed from its weight and bias without being called."""

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.parametrize import is_parametrized


def is_plain(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a layer runs the forward of ``kind`` and nothing else.

    It does not where an adapter or a quantised layer has taken its place, hooks wait for it, or its
    weight is no plain tensor (quantised, distributed, made by a parametrisation), nor for one
    without a bias.
    """
    return (
        type(layer).forward is kind.forward
        and 'forward' not in layer.__dict__
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not layer._backward_hooks
        and not layer._backward_pre_hooks
        # Asked first: a parametrisation may change with every look at the weight.
        and not is_parametrized(layer)
        and _is_plain_tensor(layer.weight)
        and _is_plain_tensor(layer.bias)
    )


def _is_plain_tensor(x: Tensor | None) -> bool:
    # A subclass decides about its operations itself; fake ones are an exporter's plain tensors.
    return type(x) in (Tensor, nn.Parameter) or isinstance(x, FakeTensor)

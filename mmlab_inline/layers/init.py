"""Random values of new layers."""

import math

import torch
from torch import Tensor, nn


def trunc_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with draws from a normal distribution around 0, cut off at -2 and 2.

    By the inverse of the distribution function, one uniform number each: torch's own function draws
    other numbers in each version, and a seed should mean the same weights.
    """
    share = math.erf(2 / (std * math.sqrt(2)))  # of the distribution that is left
    with torch.no_grad():
        tensor.uniform_(-share, share).erfinv_().mul_(std * math.sqrt(2))
        return tensor.clamp_(-2, 2)


def init_linear_and_norm(module: nn.Module) -> None:
    """Truncated normal (std 0.02) linear weights, zero biases; LayerNorm stays at identity."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Give a convolution truncated normal (std 0.02) weights and zero biases, and return it."""
    trunc_normal_(conv.weight, std=0.02)
    nn.init.zeros_(conv.bias)
    return conv

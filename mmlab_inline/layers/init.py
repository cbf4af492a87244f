"""Random values of new layers."""

import math

import torch
from torch import Tensor


def trunc_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with draws from a normal distribution around 0, cut off at -2 and 2.

    By the inverse of the distribution function, one uniform number each: torch's own function draws
    other numbers in each version, and a seed should mean the same weights.
    """
    share = math.erf(2 / (std * math.sqrt(2)))  # of the distribution that is left
    with torch.no_grad():
        tensor.uniform_(-share, share).erfinv_().mul_(std * math.sqrt(2))
        return tensor.clamp_(-2, 2)

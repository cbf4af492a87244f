"""Divisive linear attention: positive features, normalised by their sum over the keys."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Added to the mean over tokens that divides, in float32: a query without a key gets 0, not NaN.
EPSILON = 1e-6
TINY = 1e-20


def _elu(x: Tensor) -> Tensor:
    # elu(x) + 1 as written would be exactly 0 below -16.6 in float32, -6.2 in bfloat16.
    return torch.where(x > 0, x + 1, x.clamp(max=0).exp())


POSITIVE_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    'relu': F.relu,
    'elu': _elu,
    'exp': lambda x: torch.exp(0.2 * x),
}
"""Kernel functions of queries and keys without negative values, by name."""


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, kernel: str) -> Tensor:
    """:func:`normalised_attention` of kernel functions of queries and keys, free of overflow.

    Args:
        q: Queries (B, heads, M, head_dim).
        k: Keys (B, heads, N, head_dim).
        v: Values (B, heads, N, width).
        kernel: Name in :data:`POSITIVE_KERNELS`.

    Returns:
        (B, heads, M, width).
    """
    q, k, epsilon = positive_features(q, k, kernel)
    return normalised_attention(q, k, v, epsilon)


def positive_features(q: Tensor, k: Tensor, kernel: str) -> tuple[Tensor, Tensor, float]:
    """Kernel functions of queries and keys, and what to add to the mean that divides."""
    phi = POSITIVE_KERNELS[kernel]
    if kernel != 'exp':
        return phi(q), phi(k), EPSILON
    # Every channel of the keys is divided by its largest feature, which the queries get, and a
    # query by its own, which the norm takes out again; the usual epsilon would not be small beside
    # what is left.
    largest = k.detach().amax(-2, keepdim=True)
    k, q = k - largest, q + largest
    q = q - q.detach().amax(-1, keepdim=True)
    return phi(q), phi(k), TINY


def normalised_weights(q: Tensor, k: Tensor) -> Tensor:
    """The weights ``q_i.k_j / sum_t q_i.k_t`` themselves: for tests and for looking at.

    Args:
        q: Features of queries (B, heads, M, head_dim), not negative.
        k: Features of keys (B, heads, N, head_dim), not negative.

    Returns:
        (B, heads, M, N); rows sum to 1, to the epsilon.
    """
    scores = q @ k.transpose(-2, -1)
    return scores / (scores.mean(-1, keepdim=True) + EPSILON) / k.shape[-2]


def normalised_attention(q: Tensor, k: Tensor, v: Tensor, epsilon: float = EPSILON) -> Tensor:
    """:func:`normalised_weights` times the values, in time linear in the number of tokens.

    ``q_i [mean_j k_j^T v_j] / (q_i.mean_j k_j + 1e-6)``, computed as a mean of context rows, each
    of which is a mean of values: no number is larger than its operands, whatever the dtype and
    the number of tokens. Normalisers are float32 (or float64) throughout.

    Args:
        q: Features of queries (B, heads, M, head_dim), not negative.
        k: Features of keys (B, heads, N, head_dim), not negative.
        v: Values (B, heads, N, width).
        epsilon: Added to the mean that divides.

    Returns:
        (B, heads, M, width) in the dtype of ``v``.
    """
    weights, k_mean = channel_weights(q, k, epsilon)
    return weights.to(v.dtype) @ weighted_means(k, k_mean, v)


def channel_weights(q: Tensor, k: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor]:
    """How much queries (B, heads, M, head_dim) take of each channel, and the mean of the keys.

    Channel c of a query reads row c of the context. A channel without a key has weight 0.
    """
    k_mean = k.mean(-2, keepdim=True, dtype=torch.promote_types(q.dtype, torch.float32))
    weights = q * k_mean
    return weights / (weights.sum(-1, keepdim=True) + epsilon), k_mean


def weighted_means(k: Tensor, k_mean: Tensor, v: Tensor) -> Tensor:
    """Mean of the values by the weight of each channel of the keys; in half types bounded, too.

    Args:
        k: Features of keys (B, heads, N, head_dim), not negative.
        k_mean: Their mean over tokens (B, heads, 1, head_dim), in float32 or float64.
        v: Values (B, heads, N, width).

    Returns:
        (B, heads, head_dim, width) in the dtype of ``v``.
    """
    scale = k.shape[-2] ** -0.5  # of the keys and of the values: together 1 / N
    # In this order the derivative is of k / k_mean, which N bounds, and not of 1 / k_mean alone.
    k = scale * (k / k_mean.clamp(min=TINY))
    return k.to(v.dtype).transpose(-2, -1) @ (scale * v)

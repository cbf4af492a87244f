"""InLine attention as pure tensor functions: one definition, four ways to compute it.

Source: "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024
(arXiv 2412.06590). With ``s = head_dim ** -0.5`` and a kernel function phi, query i weighs key j by

    a_ij = (s / N) * (phi(q_i).phi(k_j) - mean_t phi(q_i).phi(k_t)) + 1 / N

so rows sum to one by subtraction instead of division, which keeps the map from queries to weights
injective. The output adds a dynamic depthwise 3x3 convolution of the values (the local residual).

All have one signature; :func:`.dispatch.inline_attention` picks among the linear ones.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .banded import attend_in_bands
from .exporting import is_exporting
from .heads import merge_heads, split_heads
from .local_residual import dynamic_depthwise3x3

KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    'identity': lambda x: x,
    'relu': F.relu,
    'leakyrelu': lambda x: F.leaky_relu(x, 0.01),
    'exp': lambda x: torch.exp(0.2 * x),
}
"""Kernel functions of queries and keys, by name."""


class InLineWeights(NamedTuple):
    """What an InLine attention is before its local residual and its output projection.

    Attributes:
        weights: Query, key and value weights, each (C, C) as in ``F.linear``.
        biases: Query, key and value biases, each (C,).
        num_heads: Number of heads; divides C.
        kernel: Name in :data:`KERNELS`.
    """

    weights: tuple[Tensor, Tensor, Tensor]
    biases: tuple[Tensor, Tensor, Tensor]
    num_heads: int
    kernel: str = 'identity'

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of tokens (B, N, C), each (B, N, C)."""
        pairs = zip(self.weights, self.biases, strict=True)
        return tuple(F.linear(x, weight, bias) for weight, bias in pairs)


def token_mean(x: Tensor) -> Tensor:
    """Mean over tokens, accumulated in at least float32.

    Args:
        x: Tokens (B, N, C).

    Returns:
        (B, 1, C) in float32, or float64 for float64 input.
    """
    return x.mean(1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def inline_attention_weights(q: Tensor, k: Tensor, kernel: str = 'identity') -> Tensor:
    """The N x N attention weights themselves (paper, eq. 4): for tests and for looking at.

    Args:
        q: Queries (B, heads, N, head_dim), before the kernel function.
        k: Keys (B, heads, N, head_dim), before the kernel function.
        kernel: Name in :data:`KERNELS`.

    Returns:
        (B, heads, N, N); each row sums to 1, entries may be negative.
    """
    phi = KERNELS[kernel]
    scores = phi(q) @ phi(k).transpose(-2, -1)
    scale = q.shape[-1] ** -0.5 / k.shape[-2]
    return scale * (scores - scores.mean(-1, keepdim=True)) + 1 / k.shape[-2]


def inline_attention_naive(
    x: Tensor,
    x_mean: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    local_kernel: Tensor | None,
    class_token: bool = False,
) -> Tensor:
    """Definition with the N x N matrix written out; quadratic, for tests.

    Args:
        x: Tokens (B, N, C), row-major over the map.
        x_mean: :func:`token_mean` of ``x``, (B, 1, C). (Unused here: nothing is taken on trust.)
        hw_shape: Map size (H, W) in tokens, H * W == N.
        params: Projections, heads and kernel function.
        local_kernel: Kernels of the local residual, (B, C, 3, 3); None: there is none.
        class_token: A token before those of the map, N == 1 + H * W, has no local residual.

    Returns:
        (B, N, C): all heads' outputs plus the local residual, before the output projection.
    """
    q, k, v = params.project(x)
    heads = (split_heads(t, params.num_heads) for t in (q, k))
    attention = inline_attention_weights(*heads, params.kernel)
    out = merge_heads(attention @ split_heads(v, params.num_heads))
    if local_kernel is None:
        return out
    return out + dynamic_depthwise3x3(
        v, local_kernel, hw_shape, method='shift', class_token=class_token
    )


def inline_attention_linear(
    x: Tensor,
    x_mean: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    local_kernel: Tensor | None,
    class_token: bool = False,
) -> Tensor:
    """Textbook linear form: ``o_i = mean(v) + s * phi(q_i) Cov(phi(K), V)``, any kernel function.

    The covariance is centred, and its 1/N is shared between K and V: an unscaled K^T V overflows
    float16 on big maps. Arguments and result as in :func:`inline_attention_naive`.
    """
    q, k, v = params.project(x)
    return inline_attention_of_qkv(
        q, k, v, hw_shape, local_kernel, params.num_heads, params.kernel, class_token
    )


def inline_attention_of_qkv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hw_shape: tuple[int, int],
    local_kernel: Tensor | None,
    num_heads: int,
    kernel: str = 'identity',
    class_token: bool = False,
) -> Tensor:
    """:func:`inline_attention_linear` after the projections, whatever those are.

    Args:
        q: Queries (B, N, C), before the kernel function.
        k: Keys (B, N, C), before the kernel function.
        v: Values (B, N, C).
        hw_shape: Map size (H, W) in tokens, H * W == N.
        local_kernel: Kernels of the local residual, (B, C, 3, 3); None: there is none.
        num_heads: Number of heads; divides C.
        kernel: Name in :data:`KERNELS`.
        class_token: As in :func:`inline_attention_naive`.

    Returns:
        (B, N, C): all heads' outputs plus the local residual, before the output projection.
    """
    num_tokens, channels = v.shape[1:]
    phi = KERNELS[kernel]
    q, k = phi(q), phi(k)
    k_mean, v_mean = (token_mean(t).to(t.dtype) for t in (k, v))
    k_centred = split_heads((k - k_mean) * num_tokens**-0.5, num_heads)
    v_centred = split_heads((v - v_mean) * num_tokens**-0.5, num_heads)
    cov = k_centred.transpose(-2, -1) @ v_centred  # (B, heads, head_dim, head_dim)
    scale = (channels // num_heads) ** -0.5
    out = merge_heads(split_heads(q, num_heads) @ (scale * cov)) + v_mean
    if local_kernel is None:
        return out
    return out + dynamic_depthwise3x3(v, local_kernel, hw_shape, class_token=class_token)


def inline_attention_fast(
    x: Tensor,
    x_mean: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    local_kernel: Tensor | None,
    class_token: bool = False,
) -> Tensor:
    """Exact faster form for the identity kernel: queries and keys never exist.

    With G the (C x C) token covariance of ``x``, Cov_h(K, V) = Wk_h G Wv_h^T (the key bias
    cancels), hence ``o_i = x_i M + b`` with one C x C matrix M and one bias b per sample.
    G, the means, M and b are float32 (or float64) also under autocast and for half input, and
    G is centred before it is squared: the raw moments lose digits when means exceed spreads.
    Arguments and result as in :func:`inline_attention_naive`.

    Raises:
        ValueError: ``kernel`` is not ``'identity'``.
    """
    _check_identity(params.kernel)
    with without_autocast(x):
        x_centred = x.to(x_mean.dtype) - x_mean
        gram = x_centred.transpose(-2, -1) @ x_centred / x.shape[1]
        matrix, bias = fold_projections(gram, x_mean, params)
    if local_kernel is None:
        return multiply_by_folded(x, matrix, bias)
    v = F.linear(x, params.weights[2], params.biases[2])
    local = dynamic_depthwise3x3(v, local_kernel, hw_shape, bias, class_token=class_token)
    return torch.baddbmm(local, x.to(v.dtype), matrix.to(v.dtype))


def inline_attention_banded(
    x: Tensor,
    x_mean: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    local_kernel: Tensor,
    projection: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The fast form in bands of rows (:mod:`.banded`): faster yet on a CPU, and keeps only ``x``.

    Arguments and result as in :func:`inline_attention_naive`; ``x`` in float32 or float64, outside
    autocast.

    Args:
        projection: Weight (C, C) and bias (C,) of the output projection, to have it applied too;
            only where no gradients are recorded.

    Raises:
        ValueError: ``kernel`` is not ``'identity'``.
    """
    _check_identity(params.kernel)
    value = params.weights[2], params.biases[2]

    def fold(gram: Tensor) -> tuple[Tensor, Tensor]:
        return fold_projections(gram, x_mean, params)

    return attend_in_bands(x, x_mean, fold, value, local_kernel, hw_shape, projection)


def fold_projections(
    gram: Tensor,
    x_mean: Tensor,
    params: InLineWeights,
) -> tuple[Tensor, Tensor]:
    """Everything but the value's residual as one matrix and one bias per sample.

    Args:
        gram: Token covariance of ``x``, (B, C, C).
        x_mean: (B, 1, C).
        params: Projections and heads; the kernel function is the identity.

    Returns:
        (B, C, C) and (B, C), in the dtype of ``x_mean``.
    """
    batch, channels = gram.shape[:2]
    weights, biases, num_heads, _ = params
    head_dim = channels // num_heads
    wq, wk, wv = (w.to(x_mean.dtype).unflatten(0, (num_heads, head_dim)) for w in weights)
    bq, bv = biases[0].to(x_mean.dtype), biases[2].to(x_mean.dtype)
    k_gram = (wk.flatten(0, 1) @ gram).unflatten(1, (num_heads, head_dim))
    cov = head_dim**-0.5 * (k_gram @ wv.transpose(-2, -1))  # (B, heads, head_dim, head_dim)
    matrix = (wq.transpose(-2, -1) @ cov).transpose(1, 2).reshape(batch, channels, channels)
    bias = bq.view(num_heads, 1, head_dim) @ cov  # (B, heads, 1, head_dim)
    return matrix, bias.flatten(1) + F.linear(x_mean[:, 0], wv.flatten(0, 1), bv)


def multiply_by_folded(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    """``x @ matrix + bias`` of :func:`fold_projections`: all there is without a local residual."""
    return torch.baddbmm(bias[:, None].to(x.dtype), x, matrix.to(x.dtype))


def _check_identity(kernel: str) -> None:
    if kernel != 'identity':
        raise ValueError(f"the fast form needs kernel='identity', got {kernel!r}")


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Within it, operations on ``x`` keep its dtype.

    Args:
        x: Tells the device.
    """
    # torch.autocast refuses the meta device, which counts and shape checks use, and would wrap its
    # operations in an exported graph.
    if x.is_meta or is_exporting():
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)

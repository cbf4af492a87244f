"""InLine attention by the cheapest of its forms."""

import os
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .banded import centred_gram
from .eager import runs_eagerly_on_cpu
from .exporting import is_exporting
from .inline_attention import (
    InLineWeights,
    fold_projections,
    inline_attention_banded,
    inline_attention_fast,
    inline_attention_linear,
    multiply_by_folded,
    token_mean,
    without_autocast,
)
from .inline_attention_fused import (
    inline_attention_fused,
    product_dtype,
    triton_is_available,
)


def inline_attention(
    x: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    predict_local_kernel: Callable[[Tensor], Tensor] | None,
    projection: tuple[Tensor, Tensor],
    class_token: bool = False,
) -> Tensor:
    """InLine attention by the cheapest form for these sizes, this device and dtype.

    Args:
        x: Tokens (B, N, C), row-major over the map.
        hw_shape: Map size (H, W) in tokens, H * W == N.
        params: Projections to queries, keys and values, heads and kernel function.
        predict_local_kernel: Maps the mean token (B, C) in the dtype of ``x`` to the kernels of
            the local residual, (B, C, 3, 3); None: there is none.
        projection: Weight (C, C) and bias (C,) of the output projection.
        class_token: A token before those of the map, N == 1 + H * W, has no local residual.

    Returns:
        (B, N, C): all heads' outputs plus the local residual, projected.
    """
    # An export has one form for every number of tokens.
    fast = not is_exporting() and fast_form_is_cheaper(x.shape[1], x.shape[2], params.kernel)
    if fast and predict_local_kernel is None:
        return _as_one_product(x, params, projection)
    known = {'class_token': True} if class_token else {}
    kernels = fast and triton_is_available(x)
    fast = fast and fast_form_is_worth_its_launches(x, kernels)
    if fast and kernels:
        from .triton_kernels import token_mean_and_gram  # needs triton

        form = inline_attention_fused
        x_mean, known['gram'] = token_mean_and_gram(x)
    else:
        in_bands = runs_eagerly_on_cpu(x) and not class_token
        plain = inline_attention_banded if in_bands else inline_attention_fast
        form = plain if fast else inline_attention_linear
        x_mean = token_mean(x)
    local_kernel = None
    if predict_local_kernel is not None:
        local_kernel = predict_local_kernel(x_mean[:, 0].to(x.dtype))
    fold = form is inline_attention_banded and not torch.is_grad_enabled()
    if fold:
        known['projection'] = projection
    out = form(x, x_mean, hw_shape, params, local_kernel, **known)
    return out if fold else F.linear(out, *projection)


def _as_one_product(x: Tensor, params: InLineWeights, projection: tuple[Tensor, Tensor]) -> Tensor:
    """The fast form without a local residual: no values either, and the projection folded in."""
    if triton_is_available(x):
        from .triton_kernels import token_mean_and_gram  # needs triton

        x_mean, gram = token_mean_and_gram(x)
    else:
        x_mean = token_mean(x)
        with without_autocast(x):
            x, gram = centred_gram(x, x_mean)
    with without_autocast(x):
        matrix, bias = fold_projections(gram, x_mean, params)
        weight, last = (t.to(matrix.dtype) for t in projection)
        matrix, bias = matrix @ weight.mT, F.linear(bias, weight, last)
    return multiply_by_folded(x, matrix, bias)


def fast_form_is_worth_its_launches(x: Tensor, kernels: bool) -> bool:
    """Whether tokens (B, N, C) are no fewer than :func:`fewest_values_worth_launches`.

    Args:
        x: Tokens (B, N, C).
        kernels: Whether Triton's kernels can process them.
    """
    if x.device.type != 'cuda':
        return True
    fewest = fewest_values_worth_launches(product_dtype(x).itemsize == 2, kernels)
    return fewest is not None and x.numel() >= fewest


def fewest_values_worth_launches(half: bool, kernels: bool) -> int | None:
    """The rule that keeps the linear form on a GPU that is faster than Python.

    Triton's launches take Python longer than PyTorch's: the 17 of a module with the kernels 1 ms,
    the 21 of the linear form 0.6 ms in float32, 35 under autocast 0.8 ms. Measured on one H200 with
    PyTorch 2.11, 64 to 512 channels: from 3 million values in float32 and 12 million in half types
    the linear form takes the GPU longer.
    Without the kernels the plain fast form is the slower one in half types at every size.
    Compiled code launches for nothing; ``MMLAB_INLINE_TRITON=1`` is for CUDA graphs, which do, too.

    Args:
        half: Whether products are in float16 or bfloat16.
        kernels: Whether Triton's kernels run.

    Returns:
        From how many values B * N * C on a fast form runs; None: on no map.
    """
    if half and not kernels:
        return None
    if torch.compiler.is_compiling() or os.environ.get('MMLAB_INLINE_TRITON') == '1':
        return 0
    return (12 if half else 3) << 20


def fast_form_is_cheaper(num_tokens: int, channels: int, kernel: str) -> bool:
    """The rule by which :func:`inline_attention` chooses: three times as many tokens as channels.

    Per sample the fast form replaces the textbook's ``2 N C d`` multiply-accumulates and its
    per-head copies of q, k and v by ``C^3 + 2 C^2 d`` for G's products with the weights.
    Measured on 2 cores in float32, batch 2, speed-up forward / forward and backward:
    64 channels 0.7 / 0.9 at N = C, 1.2 / 1.0 at 3 C, 3.2 / 1.9 at 64 C; 320 channels 0.8 / 0.7
    at 0.8 C, 1.2 / 1.1 at 3 C, 1.9 / 1.3 at 12 C; 512 channels 0.6 / 0.6 at 0.5 C, 1.1 / 1.0 at
    2 C, 1.8 / 1.4 at 8 C.
    """
    return kernel == 'identity' and num_tokens >= 3 * channels

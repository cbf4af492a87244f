"""The streaming parts of InLine attention's fast form as Triton kernels, for CUDA.

Bytes moved per token and channel with float32 input / half input / float32 input under autocast,
counted from what each part reads and writes. The plain form is
:func:`~mmlab_inline.ops.inline_attention_fast` on CUDA; its value projection is the same here.

==================================  ==============  ============================================
part                                these kernels   plain form
==================================  ==============  ============================================
mean and covariance                 4 / 2 / 4       16 / 20 / 16: mean, float32 copy, centred
                                                    copy, product
tokens rounded for the products     0 / 0 / 6       0 / 0 / 12: twice
product, bias and local residual    12 / 6 / 6      36 / 18 / 18: channel-major copy, convolution,
                                                    copy back, product added to it
backward of mean and covariance     8 / 4 / 8       48 / 54 / 48: two products, their sum, its
                                                    mean, the mean's gradient added
backward of product and residual    28 / 14 / 14    52 / 26 / 26: the same products, three passes
                                                    of the convolution, copies to and fro
==================================  ==============  ============================================

Left out are C x C matrices, what caches serve (tiles of channels, neighbouring tokens), and partial
sums: up to C / 32 bytes for the covariance and for the matrix's gradient, 0.6 for the taps'.

Sums over tokens are split over programs and finished by a second reduction instead of atomics, so
every run gives the same result. All sums and statistics are float32. Offsets within a sample have
32 bits: N * C must stay below 2^31.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from .inline_attention import token_mean, without_autocast
from .local_residual import dynamic_depthwise3x3
from .second_order import gradients_of_plain_form

# Few splits move few partial sums, many keep all multiprocessors busy.
_MIN_TOKENS_PER_SPLIT = 256
_PROGRAMS_PER_MULTIPROCESSOR = 2

# Integers that differ from map to map must not each cost a compilation.
_RUNTIME_INTEGERS = ['num_tokens', 'height', 'width', 'num_splits', 'tokens_per_split']


def token_mean_and_gram(x: Tensor) -> tuple[Tensor, Tensor]:
    """Token mean and centred token covariance, both in one read of the tokens.

    Under autocast and for half input, products are rounded as TensorFloat32 (which is finer than
    either half type), else they are as exact as float32. Gradients of gradients are
    those of plain operations.

    Args:
        x: Tokens (B, N, C) in float32, float16 or bfloat16.

    Returns:
        Mean (B, 1, C) and ``(x - mean)^T (x - mean) / N`` (B, C, C), both in float32.
    """
    exact = x.dtype is torch.float32 and not torch.is_autocast_enabled(x.device.type)
    run = _form_of(_token_mean_and_gram, _run_moments, _Moments.apply, x)
    return run(x, 'tf32x3' if exact else 'tf32')


def project_and_local_residual(
    x: Tensor,
    v: Tensor,
    matrix: Tensor,
    bias: Tensor,
    kernel: Tensor,
    hw_shape: tuple[int, int],
) -> Tensor:
    """``x @ matrix + bias`` plus a depthwise 3x3 convolution of ``v``, written once.

    Gradients of gradients are those of plain operations.

    Args:
        x: Tokens (B, N, C), row-major over the map.
        v: Values (B, N, C) in the dtype of ``x``.
        matrix: (B, C, C); rounded to the dtype of ``x``.
        bias: (B, 1, C).
        kernel: Kernels of the convolution with zero padding 1, (B, C, 3, 3).
        hw_shape: Map size (H, W) in tokens, H * W == N.

    Returns:
        (B, N, C) in the dtype of ``x``; sums are float32 inside.
    """
    tensors = x, v, matrix, bias, kernel
    run = _form_of(_project_and_local_residual, _run_project, _Project.apply, *tensors)
    return run(*tensors, hw_shape)


def _form_of(operator: Callable, run: Callable, differentiable: Callable, *tensors: Tensor):
    """The cheapest of three ways to the same launches, whose calls cost more than they do."""
    if _is_traced(tensors[0]):
        return operator
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return differentiable
    return run


def _is_traced(x: Tensor) -> bool:
    """Whether the operations are looked at, so that the launches must hide in an operator.

    A profiler names kernels after the operator around them.
    """
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or torch.autograd._profiler_enabled()  # no public function tells
    )


# The operators: opaque to torch.compile, which therefore needs no graph break. Each has the
# function that it launches by beside it, and for eager mode an autograd.Function.


def _run_moments(x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    partial, pivot = _launch_moments(x, x, precision, centred=True)
    return _launch_finish(partial, pivot, x.shape[1])


_token_mean_and_gram = torch.library.custom_op(
    'mmlab_inline::token_mean_and_gram', _run_moments, mutates_args=()
)


@_token_mean_and_gram.register_fake
def _(x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    batch, _, channels = x.shape
    float_options = dict(dtype=torch.float32, device=x.device)
    return (
        torch.empty(batch, 1, channels, **float_options),
        torch.empty(batch, channels, channels, **float_options),
    )


def _save_for_moments(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, ctx.precision = inputs
    ctx.save_for_backward(x, output[0])


def _moments_backward(ctx, grad_mean: Tensor, grad_gram: Tensor) -> tuple[Tensor | None, None]:
    x, mean = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *gradients_of_plain_form(_plain_moments, [x], (grad_mean, grad_gram)), None
    num_tokens = x.shape[1]
    # A product of x instead of x - mean, corrected afterwards, would be a plain matrix product,
    # but loses as many digits as the mean has above the spread.
    symmetric = (grad_gram + grad_gram.transpose(1, 2)) / num_tokens
    run = _centred_product if _is_traced(grad_gram) else _run_centred_product
    return run(x, mean, symmetric, grad_mean / num_tokens, ctx.precision), None


def _plain_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    with without_autocast(x):
        mean = token_mean(x)
        centred = x.to(mean.dtype) - mean
        return mean, centred.mT @ centred / x.shape[1]


_token_mean_and_gram.register_autograd(_moments_backward, setup_context=_save_for_moments)


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, precision: str) -> tuple[Tensor, Tensor]:
        output = _run_moments(x, precision)
        _save_for_moments(ctx, (x, precision), output)
        return output

    backward = staticmethod(_moments_backward)


def _run_centred_product(
    x: Tensor, mean: Tensor, matrix: Tensor, bias: Tensor, precision: str
) -> Tensor:
    """``(x - mean) @ matrix + bias`` in the dtype of ``x``, rounded only at the end."""
    return _launch_project(x, matrix, bias, precision, mean=mean)


_centred_product = torch.library.custom_op(
    'mmlab_inline::centred_product', _run_centred_product, mutates_args=()
)


@_centred_product.register_fake
def _(x: Tensor, mean: Tensor, matrix: Tensor, bias: Tensor, precision: str) -> Tensor:
    return x.new_empty(x.shape)


def _run_project(
    x: Tensor, v: Tensor, matrix: Tensor, bias: Tensor, kernel: Tensor, hw_shape: Sequence[int]
) -> Tensor:
    return _launch_project(x, matrix, bias, 'tf32x3', v=v, kernel=kernel, hw_shape=hw_shape)


_project_and_local_residual = torch.library.custom_op(
    'mmlab_inline::project_and_local_residual', _run_project, mutates_args=()
)


@_project_and_local_residual.register_fake
def _(
    x: Tensor, v: Tensor, matrix: Tensor, bias: Tensor, kernel: Tensor, hw_shape: Sequence[int]
) -> Tensor:
    return x.new_empty(x.shape)


def _save_for_project(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.hw_shape = inputs
    ctx.save_for_backward(*tensors)


def _project_backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        plain = partial(_plain_project, hw_shape=ctx.hw_shape)
        return *gradients_of_plain_form(plain, ctx.saved_tensors, grad), None
    x, v, matrix, bias, kernel = ctx.saved_tensors
    # As wide as it is long and nothing to fuse it with: the library's product is as good.
    grad_x = grad @ matrix.to(grad.dtype).transpose(1, 2)
    # Few numbers from very many tokens: a batched library product would keep a few multiprocessors
    # busy and leave the others idle.
    traced = _is_traced(grad)
    grad_matrix = (_cross_moment if traced else _run_cross_moment)(x, grad).to(matrix.dtype)
    differentiate = _local_residual_backward if traced else _run_local_residual_backward
    grad_v, sums = differentiate(grad, v, kernel, ctx.hw_shape)
    grad_kernel = sums[:, :9].transpose(1, 2).unflatten(2, (3, 3)).to(kernel.dtype)
    return grad_x, grad_v, grad_matrix, sums[:, 9:].to(bias.dtype), grad_kernel, None


def _plain_project(
    x: Tensor, v: Tensor, matrix: Tensor, bias: Tensor, kernel: Tensor, hw_shape: Sequence[int]
) -> Tensor:
    with without_autocast(x):
        local = dynamic_depthwise3x3(v, kernel, tuple(hw_shape), bias[:, 0])
        return torch.baddbmm(local, x, matrix.to(x.dtype))


_project_and_local_residual.register_autograd(_project_backward, setup_context=_save_for_project)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs: object) -> Tensor:
        output = _run_project(*inputs)
        _save_for_project(ctx, inputs, output)
        return output

    backward = staticmethod(_project_backward)


def _run_cross_moment(a: Tensor, b: Tensor) -> Tensor:
    """``a^T b``, (B, C, C) in float32."""
    partial, _ = _launch_moments(a, b, 'tf32x3', centred=False)
    return partial.sum(1)


_cross_moment = torch.library.custom_op(
    'mmlab_inline::cross_moment', _run_cross_moment, mutates_args=()
)


@_cross_moment.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[2], b.shape[2], dtype=torch.float32)


def _run_local_residual_backward(
    grad: Tensor, v: Tensor, kernel: Tensor, hw_shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Gradient of ``v``; and that of each tap and of a bias, (B, 10, C) in float32."""
    grad, v, kernel = _dense(grad), _dense(v), _dense(kernel)
    batch, num_tokens, channels = v.shape
    block_n, block_c = 128, _block(channels, 32)
    num_splits = triton.cdiv(num_tokens, block_n)
    grad_v = torch.empty_like(v)
    partial = v.new_empty(batch, num_splits, 10, channels, dtype=torch.float32)
    with torch.cuda.device_of(v):
        _local_residual_backward_kernel[(triton.cdiv(channels, block_c) * num_splits * batch,)](
            grad,
            v,
            kernel,
            grad_v,
            partial,
            num_tokens,
            *hw_shape,
            num_splits,
            CHANNELS=channels,
            BLOCK_N=block_n,
            BLOCK_C=block_c,
            num_warps=8,
        )
    return grad_v, partial.sum(1)


_local_residual_backward = torch.library.custom_op(
    'mmlab_inline::local_residual_backward', _run_local_residual_backward, mutates_args=()
)


@_local_residual_backward.register_fake
def _(grad: Tensor, v: Tensor, kernel: Tensor, hw_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    batch, _, channels = v.shape
    return v.new_empty(v.shape), v.new_empty(batch, 10, channels, dtype=torch.float32)


# The launchers.


def _launch_moments(a: Tensor, b: Tensor, precision: str, centred: bool) -> tuple[Tensor, Tensor]:
    """Partial sums (B, splits, C or C + 1, C) of ``a^T b`` over tokens, and the pivot (B, 1, C)."""
    a, b = _dense(a), _dense(b)
    batch, num_tokens, channels = a.shape
    block_n, block_c = 32, _block(channels, 128)
    tiles = triton.cdiv(channels, block_c) ** 2
    most_splits = triton.cdiv(_programs_wanted(a), tiles * batch)
    tokens_per_split = max(_MIN_TOKENS_PER_SPLIT, triton.cdiv(num_tokens, most_splits))
    tokens_per_split = triton.cdiv(tokens_per_split, block_n) * block_n
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    rows = channels + 1 if centred else channels
    partial = a.new_empty(batch, num_splits, rows, channels, dtype=torch.float32)
    pivot = a.new_empty(batch, 1, channels, dtype=torch.float32)
    with torch.cuda.device_of(a):
        _moments_kernel[(tiles * num_splits * batch,)](
            a,
            b,
            pivot,
            partial,
            num_tokens,
            num_splits,
            tokens_per_split,
            CHANNELS=channels,
            CENTRED=centred,
            DOT_DTYPE=tl.float32 if centred else _dot_dtype(a),
            PRECISION=precision,
            BLOCK_N=block_n,
            BLOCK_C=block_c,
            num_warps=8 if block_c == 128 else 4,
            num_stages=2,
        )
    return partial, pivot


def _launch_finish(partial: Tensor, pivot: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Mean (B, 1, C) and covariance (B, C, C) from :func:`_launch_moments`, centred."""
    batch, num_splits, _, channels = partial.shape
    block_r, block_c = 4, _block(channels, 64)
    mean = torch.empty_like(pivot)
    gram = pivot.new_empty(batch, channels, channels)
    with torch.cuda.device_of(pivot):
        _finish_moments_kernel[
            (triton.cdiv(channels, block_c) * triton.cdiv(channels, block_r) * batch,)
        ](
            partial,
            pivot,
            mean,
            gram,
            num_tokens,
            num_splits,
            CHANNELS=channels,
            BLOCK_S=32,
            BLOCK_R=block_r,
            BLOCK_C=block_c,
            num_warps=8,
        )
    return mean, gram


def _launch_project(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor,
    precision: str,
    mean: Tensor | None = None,
    v: Tensor | None = None,
    kernel: Tensor | None = None,
    hw_shape: Sequence[int] = (0, 0),
) -> Tensor:
    """``(x - mean) @ matrix + bias`` plus the convolution of ``v``; what is None is left out."""
    x, matrix, bias = _dense(x), _dense(matrix), _dense(bias)
    v, kernel, mean = (None if t is None else _dense(t) for t in (v, kernel, mean))
    batch, num_tokens, channels = x.shape
    block_n, block_c, block_k = 64, _block(channels, 64), _block(channels, 32)
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _project_kernel[
            (triton.cdiv(channels, block_c) * triton.cdiv(num_tokens, block_n) * batch,)
        ](
            x,
            mean,
            matrix,
            bias,
            v,
            kernel,
            out,
            num_tokens,
            *hw_shape,
            CHANNELS=channels,
            DOT_DTYPE=_dot_dtype(x) if mean is None else tl.float32,
            PRECISION=precision,
            BLOCK_N=block_n,
            BLOCK_C=block_c,
            BLOCK_K=block_k,
            num_warps=4,
            num_stages=2,
        )
    return out


def _dense(x: Tensor) -> Tensor:
    """Contiguous, at an address as allocators give them: others take other machine code."""
    x = x.contiguous()
    return x if x.data_ptr() % 16 == 0 else x.clone()


def _block(channels: int, largest: int) -> int:
    # tl.dot takes no fewer than 16.
    return min(largest, max(16, triton.next_power_of_2(channels)))


def _programs_wanted(x: Tensor) -> int:
    if not x.is_cuda:  # Triton's interpreter runs one after another
        return 1
    properties = torch.cuda.get_device_properties(x.device)
    return _PROGRAMS_PER_MULTIPROCESSOR * properties.multi_processor_count


def _dot_dtype(x: Tensor) -> tl.dtype:
    if not x.is_cuda:  # Triton's interpreter gets products of bfloat16 wrong
        return tl.float32
    return {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}.get(x.dtype, tl.float32)


# The kernels. Neighbouring programs share tokens, so that the cache serves all but the first read.


@triton.jit(do_not_specialize=_RUNTIME_INTEGERS)
def _moments_kernel(
    a_ptr,  # (B, N, C)
    b_ptr,  # (B, N, C)
    pivot_ptr,  # (B, 1, C), written if CENTRED
    partial_ptr,  # (B, splits, C or C + 1, C), written
    num_tokens,
    num_splits,
    tokens_per_split,
    CHANNELS: tl.constexpr,
    CENTRED: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums of a^T b over one split of the tokens, a tile of channels by channels.

    If CENTRED, a and b are one tensor, a pivot near its mean is subtracted first (raw moments lose
    digits where means exceed spreads; moments about anything within a spread of the mean do not),
    and row C of the result holds the sums over tokens.
    """
    TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    ROWS: tl.constexpr = CHANNELS + 1 if CENTRED else CHANNELS
    pid = tl.program_id(0)
    rows = pid // TILES % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    cols = pid % TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    split = pid // (TILES * TILES) % num_splits
    sample = (pid // (TILES * TILES) // num_splits).to(tl.int64)
    a_ptr += sample * num_tokens * CHANNELS
    b_ptr += sample * num_tokens * CHANNELS
    partial_ptr += (sample * num_splits + split) * ROWS * CHANNELS
    if CENTRED:
        row_pivot = _pivot(a_ptr, rows, num_tokens, CHANNELS)
        col_pivot = _pivot(b_ptr, cols, num_tokens, CHANNELS)

    products = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    sums = tl.zeros((BLOCK_C,), tl.float32)
    first = split * tokens_per_split
    for start in range(first, tl.minimum(first + tokens_per_split, num_tokens), BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        b_mask = (tokens < num_tokens)[:, None] & (cols < CHANNELS)[None, :]
        b = tl.load(b_ptr + tokens[:, None] * CHANNELS + cols[None, :], b_mask, 0.0)
        if CENTRED:
            b = tl.where(b_mask, b.to(tl.float32) - col_pivot[None, :], 0.0)
            sums += tl.sum(b, 0)
        if CENTRED and TILES == 1:
            a = b
        else:
            a_mask = (tokens < num_tokens)[:, None] & (rows < CHANNELS)[None, :]
            a = tl.load(a_ptr + tokens[:, None] * CHANNELS + rows[None, :], a_mask, 0.0)
            if CENTRED:
                a = tl.where(a_mask, a.to(tl.float32) - row_pivot[None, :], 0.0)
        a, b = _operand(a, DOT_DTYPE, PRECISION), _operand(b, DOT_DTYPE, PRECISION)
        products = tl.dot(tl.trans(a), b, products, input_precision=PRECISION)

    mask = (rows < CHANNELS)[:, None] & (cols < CHANNELS)[None, :]
    tl.store(partial_ptr + rows[:, None] * CHANNELS + cols[None, :], products, mask)
    if CENTRED and pid // TILES % TILES == 0:  # every row of tiles has the same
        tl.store(partial_ptr + CHANNELS * CHANNELS + cols, sums, cols < CHANNELS)
        if split == 0:
            tl.store(pivot_ptr + sample * CHANNELS + cols, col_pivot, cols < CHANNELS)


@triton.jit
def _pivot(x_ptr, channels, num_tokens, CHANNELS: tl.constexpr):
    """Mean of 16 tokens spread over the map: one alone may be far off, a corner's in particular."""
    tokens = (tl.arange(0, 16).to(tl.int64) * num_tokens // 16).to(tl.int32)
    offsets = tokens[:, None] * CHANNELS + channels[None, :]
    x = tl.load(x_ptr + offsets, (channels < CHANNELS)[None, :], 0.0)
    return tl.sum(x.to(tl.float32), 0) / 16


@triton.jit(do_not_specialize=_RUNTIME_INTEGERS)
def _finish_moments_kernel(
    partial_ptr,  # (B, splits, C + 1, C)
    pivot_ptr,  # (B, 1, C)
    mean_ptr,  # (B, 1, C), written
    gram_ptr,  # (B, C, C), written
    num_tokens,
    num_splits,
    CHANNELS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and covariance from moments about the pivot and sums, a tile of rows by columns."""
    C_TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    R_TILES: tl.constexpr = (CHANNELS + BLOCK_R - 1) // BLOCK_R
    pid = tl.program_id(0)
    cols = pid % C_TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    rows = pid // C_TILES % R_TILES * BLOCK_R + tl.arange(0, BLOCK_R)
    sample = (pid // (C_TILES * R_TILES)).to(tl.int64)
    partial_ptr += sample * num_splits * (CHANNELS + 1) * CHANNELS

    in_rows, in_cols = rows < CHANNELS, cols < CHANNELS
    mask = in_rows[:, None] & in_cols[None, :]
    offsets = rows[:, None] * CHANNELS + cols[None, :]
    gram = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    row_sums = tl.zeros((BLOCK_R,), tl.float32)
    col_sums = tl.zeros((BLOCK_C,), tl.float32)
    for start in range(0, num_splits, BLOCK_S):
        splits = start + tl.arange(0, BLOCK_S)
        there = splits < num_splits
        own = partial_ptr + splits * ((CHANNELS + 1) * CHANNELS)
        sums = own + CHANNELS * CHANNELS
        products = tl.load(
            own[:, None, None] + offsets[None, :, :], there[:, None, None] & mask[None, :, :], 0.0
        )
        gram += tl.sum(products, 0)
        row_sums += tl.sum(
            tl.load(sums[:, None] + rows[None, :], there[:, None] & in_rows[None, :], 0.0), 0
        )
        col_sums += tl.sum(
            tl.load(sums[:, None] + cols[None, :], there[:, None] & in_cols[None, :], 0.0), 0
        )

    row_offset, col_offset = row_sums / num_tokens, col_sums / num_tokens
    gram = gram / num_tokens - row_offset[:, None] * col_offset[None, :]
    tl.store(gram_ptr + sample * CHANNELS * CHANNELS + offsets, gram, mask)
    if pid // C_TILES % R_TILES == 0:
        pivot = tl.load(pivot_ptr + sample * CHANNELS + cols, in_cols, 0.0)
        tl.store(mean_ptr + sample * CHANNELS + cols, pivot + col_offset, in_cols)


@triton.jit(do_not_specialize=_RUNTIME_INTEGERS)
def _project_kernel(
    x_ptr,  # (B, N, C)
    mean_ptr,  # (B, 1, C) or None
    matrix_ptr,  # (B, C, C)
    bias_ptr,  # (B, 1, C)
    v_ptr,  # (B, N, C) or None
    kernel_ptr,  # (B, C, 3, 3)
    out_ptr,  # (B, N, C), written
    num_tokens,
    height,
    width,
    CHANNELS: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(x - mean) @ matrix + bias + depthwise3x3(v), a tile of tokens by channels."""
    C_TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    token_tiles = tl.cdiv(num_tokens, BLOCK_N)
    cols = pid % C_TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    tokens = pid // C_TILES % token_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    sample = (pid // C_TILES // token_tiles).to(tl.int64)
    x_ptr += sample * num_tokens * CHANNELS
    matrix_ptr += sample * CHANNELS * CHANNELS

    in_map, in_cols = tokens < num_tokens, cols < CHANNELS
    out = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for start in range(0, CHANNELS, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        in_inner = inner < CHANNELS
        x = tl.load(
            x_ptr + tokens[:, None] * CHANNELS + inner[None, :],
            in_map[:, None] & in_inner[None, :],
            0.0,
        )
        if mean_ptr is not None:
            x = x.to(tl.float32) - tl.load(mean_ptr + sample * CHANNELS + inner, in_inner, 0.0)
        matrix = tl.load(
            matrix_ptr + inner[:, None] * CHANNELS + cols[None, :],
            in_inner[:, None] & in_cols[None, :],
            0.0,
        )
        x, matrix = _operand(x, DOT_DTYPE, PRECISION), _operand(matrix, DOT_DTYPE, PRECISION)
        out = tl.dot(x, matrix, out, input_precision=PRECISION)
    out += tl.load(bias_ptr + sample * CHANNELS + cols, in_cols, 0.0).to(tl.float32)[None, :]

    if v_ptr is not None:
        v_ptr += sample * num_tokens * CHANNELS
        kernel_ptr += sample * CHANNELS * 9
        for tap in range(9):
            weight = tl.load(kernel_ptr + cols * 9 + tap, in_cols, 0.0).to(tl.float32)
            row, col = tap // 3 - 1, tap % 3 - 1
            v = _shifted(v_ptr, tokens, cols, row, col, height, width, CHANNELS)
            out += v * weight[None, :]

    tl.store(
        out_ptr + sample * num_tokens * CHANNELS + tokens[:, None] * CHANNELS + cols[None, :],
        out,
        in_map[:, None] & in_cols[None, :],
    )


@triton.jit(do_not_specialize=_RUNTIME_INTEGERS)
def _local_residual_backward_kernel(
    grad_ptr,  # (B, N, C)
    v_ptr,  # (B, N, C)
    kernel_ptr,  # (B, C, 3, 3)
    grad_v_ptr,  # (B, N, C), written
    partial_ptr,  # (B, splits, 10, C), written
    num_tokens,
    height,
    width,
    num_splits,
    CHANNELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of the depthwise 3x3 convolution in v, and one block of tokens' share of those in
    its nine taps and in a bias. Token n of v meets the same nine tokens of grad in both."""
    C_TILES: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    cols = pid % C_TILES * BLOCK_C + tl.arange(0, BLOCK_C)
    split = pid // C_TILES % num_splits
    sample = (pid // C_TILES // num_splits).to(tl.int64)
    tokens = split * BLOCK_N + tl.arange(0, BLOCK_N)
    grad_ptr += sample * num_tokens * CHANNELS
    kernel_ptr += sample * CHANNELS * 9
    partial_ptr += (sample * num_splits + split) * 10 * CHANNELS

    in_cols = cols < CHANNELS
    offsets = sample * num_tokens * CHANNELS + tokens[:, None] * CHANNELS + cols[None, :]
    mask = (tokens < num_tokens)[:, None] & in_cols[None, :]
    v = tl.load(v_ptr + offsets, mask, 0.0).to(tl.float32)
    grad_v = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    for tap in range(9):
        weight = tl.load(kernel_ptr + cols * 9 + tap, in_cols, 0.0).to(tl.float32)
        # Output n has read v at n + (row, col), so v at n is read by output n - (row, col).
        row, col = 1 - tap // 3, 1 - tap % 3
        grad = _shifted(grad_ptr, tokens, cols, row, col, height, width, CHANNELS)
        grad_v += grad * weight[None, :]
        tl.store(partial_ptr + tap * CHANNELS + cols, tl.sum(grad * v, 0), in_cols)
        if tap == 4:  # the centre
            tl.store(partial_ptr + 9 * CHANNELS + cols, tl.sum(grad, 0), in_cols)
    tl.store(grad_v_ptr + offsets, grad_v, mask)


@triton.jit
def _operand(x, DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """What tl.dot shall multiply. It leaves the last 13 bits of float32 to TensorFloat32 hardware,
    which cuts them off: squares would sum up too small. This rounds them to nearest."""
    x = x.to(DTYPE)
    if PRECISION == 'tf32':
        x = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return x


@triton.jit
def _shifted(x_ptr, tokens, channels, row, col, height, width, CHANNELS: tl.constexpr):
    """What lies ``row`` rows below and ``col`` columns right of tokens; zero beyond the map."""
    rows, cols = tokens // width + row, tokens % width + col
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    inside &= tokens < height * width
    offsets = (tokens + row * width + col)[:, None] * CHANNELS + channels[None, :]
    x = tl.load(x_ptr + offsets, inside[:, None] & (channels < CHANNELS)[None, :], 0.0)
    return x.to(tl.float32)

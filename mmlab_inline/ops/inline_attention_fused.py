"""The fast form of InLine attention with its streaming parts fused, where Triton can run them."""

import os
import subprocess
import warnings
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .eager import is_capturing, is_faking, is_transforming
from .exporting import is_exporting
from .inline_attention import (
    InLineWeights,
    fold_projections,
    inline_attention_fast,
    multiply_by_folded,
    without_autocast,
)

_DEVICE_TYPE = 'cuda'
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_INSTALLED = find_spec('triton') is not None


def inline_attention_fused(
    x: Tensor,
    x_mean: Tensor,
    hw_shape: tuple[int, int],
    params: InLineWeights,
    local_kernel: Tensor,
    gram: Tensor | None = None,
    class_token: bool = False,
) -> Tensor:
    """:func:`~mmlab_inline.ops.inline_attention_fast`, fused where :func:`triton_is_available`.

    The tokens are read once for their covariance and once for the product, the values once, and
    nothing is written but the values and the result; ``triton_kernels`` counts the bytes.
    Arguments, result and errors as in the fast form, and:

    Args:
        gram: Token covariance of ``x``, centred, (B, C, C) in float32, if it is known already:
            ``triton_kernels.token_mean_and_gram`` gives it in one read with ``x_mean``.
    """
    # A covariance from the kernels tells that they can: asking again would cost as a launch does.
    if params.kernel != 'identity' or (gram is None and not triton_is_available(x)):
        return inline_attention_fast(x, x_mean, hw_shape, params, local_kernel, class_token)
    from .triton_kernels import project_and_local_residual, token_mean_and_gram

    if gram is None:
        gram = token_mean_and_gram(x)[1]
    local_kernel = local_kernel.to(_kernel_dtype(x))
    x = x.to(product_dtype(x))  # once for both products
    with without_autocast(x):
        matrix, bias = fold_projections(gram, x_mean, params)
    tokens = x[:, 1:] if class_token else x
    v = F.linear(tokens, params.weights[2], params.biases[2])
    out = project_and_local_residual(tokens, v, matrix, bias[:, None], local_kernel, hw_shape)
    if not class_token:
        return out
    first = multiply_by_folded(x[:, :1], matrix, bias)
    return torch.cat((first.to(out.dtype), out), 1)


def triton_is_available(x: Tensor) -> bool:
    """Whether the Triton kernels can process these tokens.

    They need a CUDA tensor in float32, float16 or bfloat16 on compute capability 8.0 or later, and
    do not run while exporting or tracing, on fake tensors, in torch.func's transforms, under
    forward-mode differentiation, nor where the environment variable ``MMLAB_INLINE_TRITON`` is 0.
    The first call for a type and a number of channels compiles them (seconds; Triton keeps the
    result on disk); where that fails, it warns. A CUDA graph holds them only if that call came
    before its capture, as the warm-up that PyTorch asks for.

    Args:
        x: Tokens (B, N, C).
    """
    if not _INSTALLED or x.device.type != _DEVICE_TYPE or x.dtype not in _DTYPES:
        return False
    if torch.jit.is_tracing() or is_exporting():
        return False
    if not len(x) or isinstance(x, FakeTensor):  # nothing to launch a kernel for
        return False
    return _switched_on_and_working(
        x.device,
        x.dtype,
        product_dtype(x),
        _kernel_dtype(x),
        x.shape[2],
        torch.is_grad_enabled(),
    )


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product with ``x`` as things stand: autocast's, or its own."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _kernel_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the local kernels, which are too few to be worth rounding for autocast."""
    return torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype


_FOUND: dict[tuple, bool] = {}  # what _kernels_work has said


def _switched_on_and_working(*case: object) -> bool:
    if os.environ.get('MMLAB_INLINE_TRITON') == '0' or is_transforming():
        return False
    if case not in _FOUND:
        # What is true for a moment only is not kept.
        if is_faking():
            return False
        if is_capturing():  # no place to load a kernel for the first time
            warnings.warn(
                'InLine attention is captured in a CUDA graph without its Triton kernels; '
                'to have them, run the model once before the capture',
                stacklevel=2,
            )
            return False
        _FOUND[case] = _kernels_work(*case)
    return _FOUND[case]


# torch.compile calls it while it traces. This is torch.compiler.assume_constant_result, without the
# second that importing the compiler takes.
_switched_on_and_working._dynamo_marked_constant = True


def _kernels_work(
    device: torch.device,
    dtype: torch.dtype,
    product_dtype: torch.dtype,
    kernel_dtype: torch.dtype,
    channels: int,
    with_grad: bool,
) -> bool:
    """Whether all kernels compile and run, as they will be called.

    Raises:
        torch.OutOfMemoryError: Which says nothing about the kernels.
    """
    try:
        if device.type == 'cuda' and torch.cuda.get_device_capability(device) < (8, 0):
            return False
        from .triton_kernels import project_and_local_residual, token_mean_and_gram

        # The caller's hooks are not for these tensors: checkpointing's would run the caller again.
        hooks = torch.autograd.graph.saved_tensors_hooks(_itself, _itself)
        with torch.set_grad_enabled(with_grad), hooks:
            x = torch.zeros(1, 2, channels, dtype=dtype, device=device, requires_grad=with_grad)
            local_kernel = torch.zeros(1, channels, 3, 3, dtype=kernel_dtype, device=device)
            mean, gram = token_mean_and_gram(x)
            tokens = x.to(product_dtype)
            out = project_and_local_residual(tokens, tokens, gram, mean, local_kernel, (1, 2))
            if with_grad:
                torch.autograd.grad(out.sum(), x)
    except Exception as error:  # a compiler may fail in any way, and there is a plain form
        # PyTorch's, or the driver's in Triton's words, which found no room for a kernel.
        if 'out of memory' in str(error):
            raise torch.OutOfMemoryError(str(error)) from error
        warnings.warn(
            f'InLine attention runs without its Triton kernels: {_reason(error)}', stacklevel=2
        )
        return False
    return True


def _reason(error: Exception) -> str:
    """Why the kernels did not run, in one line."""
    # Triton has a C compiler called when it starts for the first time on a machine.
    if isinstance(error, subprocess.CalledProcessError) or 'C compiler' in str(error):
        return (
            "Triton needs a C compiler and Python's headers at its first start; "
            'apt-get install gcc python3-dev'
        )
    return f'{type(error).__name__}: {(str(error).strip().splitlines() or [""])[0]}'


def _itself(x: Tensor) -> Tensor:
    return x

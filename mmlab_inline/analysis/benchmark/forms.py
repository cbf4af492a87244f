"""Forms of the same network that are timed side by side, on the same weights."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...choices import DEFAULT_FORMS, FORMS
from ...layers import Mlp
from ...mixers import InLineAttention, QKVMixer, TokenMixer
from ...ops import KERNELS, inline_attention_fast, inline_attention_linear, token_mean
from ...utils import UserError

# These compute what auto computes.
EQUAL_FORMS = ('released', 'released-attention', 'textbook', 'fast', 'compile', 'graph')


def released(mixer: InLineAttention, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Textbook computation of a whole-map InLine attention (arXiv 2412.06590, eq. 4 and 5).

    q, k and v are permuted per head, and the local residual is one convolution with B * C groups
    on a (1, B * C, H, W) map. A reference to compare speed with, not a part of the product.

    Args:
        mixer: Whose weights to use.
        x: Tokens (B, N, C).
        hw_shape: Map size (H, W) in tokens.

    Returns:
        (B, N, C).
    """
    batch, num_tokens, channels = x.shape
    heads, head_dim = mixer.num_heads, channels // mixer.num_heads
    if hasattr(mixer, 'qkv'):
        qkv = mixer.qkv(x).reshape(batch, num_tokens, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, head_dim)
    else:
        q = mixer.q(x).reshape(batch, num_tokens, heads, head_dim).permute(0, 2, 1, 3)
        kv = mixer.kv(x).reshape(batch, num_tokens, 2, heads, head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4)
    phi = KERNELS[mixer.kernel]
    q, k = phi(q) * head_dim**-0.5, phi(k)
    k_mean, v_mean = k.mean(2, keepdim=True), v.mean(2, keepdim=True)
    out = q @ (k.transpose(2, 3) @ v / num_tokens) + (1 - q @ k_mean.transpose(2, 3)) * v_mean
    out = out.transpose(1, 2).reshape(batch, num_tokens, channels)
    if mixer.residual is None:
        return mixer.proj(out)
    kernel = mixer.residual(x.mean(1)).reshape(batch * channels, 1, 3, 3)
    before = int(mixer.class_token)  # tokens before those of the map
    image = v[:, :, before:].transpose(2, 3).reshape(1, batch * channels, *hw_shape)
    local = F.conv2d(image, kernel, padding=1, groups=batch * channels)
    local = local.reshape(batch, channels, num_tokens - before).transpose(1, 2)
    out = out + F.pad(local, (0, 0, before, 0))
    return mixer.proj(out)


def _by_op(
    op: Callable[..., Tensor], mixer: InLineAttention, x: Tensor, hw_shape: tuple[int, int]
) -> Tensor:
    mean = token_mean(x)
    kernel = mixer.local_kernel(mean.to(x.dtype))
    out = op(x, mean, hw_shape, mixer.params(), kernel, class_token=mixer.class_token)
    return mixer.proj(out)


def _floor(mixer: QKVMixer, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    linear, width = mixer.projections()[-1], mixer.proj.in_features
    return mixer.proj(F.linear(x, linear.weight[-width:], linear.bias[-width:]))


def _plain_mlp(mlp: Mlp, x: Tensor) -> Tensor:
    return mlp.fc2(F.gelu(mlp.fc1(x)))


_INLINE_FORMS = {
    'released': released,
    'released-attention': released,
    'textbook': partial(_by_op, inline_attention_linear),
    'fast': partial(_by_op, inline_attention_fast),
}


def forms_of(model: nn.Module) -> tuple[str, ...]:
    """The forms that a network comes in, out of those that are timed by default."""
    mixers = [module for module in model.modules() if isinstance(module, TokenMixer)]
    has_inline = any(isinstance(mixer, InLineAttention) for mixer in mixers)
    forms = DEFAULT_FORMS if has_inline else ('auto', 'softmax', 'floor')
    # The floor of a part would pass for that of the whole.
    has_floor = all(isinstance(mixer, QKVMixer) for mixer in mixers)
    return tuple(form for form in forms if form != 'floor' or has_floor)


def form_forwards(model: nn.Module, form: str) -> dict[nn.Module, Callable]:
    """The ``forward`` of each module of a model that a form replaces.

    Args:
        model: A network, or one token mixer. For an attention, the one that has it.
        form: Name in :data:`mmlab_inline.choices.FORMS`, or of the model's own attention.

    Raises:
        UserError: The model has nothing that the form could replace, or cannot be in a CUDA graph.
    """
    if form == 'graph':
        if hasattr(model, 'backbone'):
            raise UserError(
                "form 'graph' is of a backbone or a module: a whole model reads numbers from the "
                'GPU on its way, which no CUDA graph can hold'
            )
        if not next(model.parameters()).is_cuda:
            raise UserError("form 'graph' is a CUDA graph, and needs --device cuda")
    if form in ('auto', 'softmax', 'graph') or form not in FORMS:
        return {}
    if form == 'compile':
        # Heads of detectors and segmentors work on lists and numbers, which are not compiled.
        network = getattr(model, 'backbone', model)
        return {network: torch.compile(network.forward, dynamic=False)}
    if form == 'floor':
        if form not in forms_of(model):
            raise UserError(
                "form 'floor' is of networks whose every attention projects to values; this one "
                f'has {", ".join(forms_of(model))}'
            )
        mixers = [module for module in model.modules() if isinstance(module, QKVMixer)]
        return {mixer: partial(_floor, mixer) for mixer in mixers}
    mixers = [module for module in model.modules() if isinstance(module, InLineAttention)]
    if not mixers:
        raise UserError(
            f'form {form!r} is of InLine attention; this network has {", ".join(forms_of(model))}'
        )
    if any(mixer.window_size for mixer in mixers):
        raise UserError(f'form {form!r} attends over whole maps only; leave window_size out')
    if form == 'fast' and any(mixer.kernel != 'identity' for mixer in mixers):
        raise UserError("form 'fast' needs kernel='identity'")
    forwards = {mixer: partial(_INLINE_FORMS[form], mixer) for mixer in mixers}
    if form == 'released':
        mlps = [module for module in model.modules() if isinstance(module, Mlp)]
        forwards |= {mlp: partial(_plain_mlp, mlp) for mlp in mlps}
    return forwards

"""The table of token mixers that the backbones choose from by name.

A new linear attention needs an op, a layer, a line here and a test; no backbone changes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ..utils import one_of
from .inline import InLineAttention
from .spatial_reduction import SpatialReductionAttention
from .window import WindowAttention


@dataclass(frozen=True)
class MixerContext:
    """What a macro-architecture tells a token mixer about the block that it serves.

    Attributes:
        dim: Channels C.
        num_heads: Number of heads.
        qkv: ``'separate'`` (PVT) or ``'joint'`` (Swin) projections.
        kernel: Kernel function of linear attentions.
        linear_window_size: Window of linear attentions in tokens, None for the whole map.
        softmax_window_size: Window of softmax attention in tokens; None if ``sr_ratio`` rules.
        sr_ratio: Spatial reduction of softmax attention where it is not windowed.
        shift: Whether a windowed mixer shifts its windows (odd blocks).
    """

    dim: int
    num_heads: int
    qkv: str
    kernel: str = 'identity'
    linear_window_size: int | None = None
    softmax_window_size: int | None = None
    sr_ratio: int = 1
    shift: bool = False


def _inline(context: MixerContext) -> nn.Module:
    return InLineAttention(
        context.dim,
        context.num_heads,
        qkv=context.qkv,
        kernel=context.kernel,
        window_size=context.linear_window_size,
        shift=context.shift,
    )


def _softmax(context: MixerContext) -> nn.Module:
    if context.softmax_window_size is None:
        return SpatialReductionAttention(context.dim, context.num_heads, context.sr_ratio)
    return WindowAttention(
        context.dim, context.num_heads, context.softmax_window_size, context.shift
    )


# Every module built here has forward(x, hw_shape) with x (B, N, C) and returns (B, N, C).
TOKEN_MIXERS: dict[str, Callable[[MixerContext], nn.Module]] = {
    'inline': _inline,
    'softmax': _softmax,
}


def build_token_mixer(name: str, context: MixerContext) -> nn.Module:
    """Build the token mixer called ``name``.

    Raises:
        ValueError: Unknown name; the message lists :data:`TOKEN_MIXERS`.
    """
    return TOKEN_MIXERS[one_of('attention', name, TOKEN_MIXERS)](context)

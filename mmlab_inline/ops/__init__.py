"""Pure tensor functions; they import nothing of this package but each other."""

from .inline_attention import (
    KERNELS,
    fast_form_is_cheaper,
    inline_attention,
    inline_attention_fast,
    inline_attention_linear,
    inline_attention_naive,
    inline_attention_weights,
    token_mean,
)
from .local_residual import dynamic_depthwise3x3
from .pos_embed import resize_pos_embed
from .softmax_attention import softmax_attention
from .windows import (
    apply_in_windows,
    may_shift,
    padded_shape,
    relative_position_index,
    shift_mask,
    window_shift,
)

__all__ = [
    'KERNELS',
    'apply_in_windows',
    'dynamic_depthwise3x3',
    'fast_form_is_cheaper',
    'inline_attention',
    'inline_attention_fast',
    'inline_attention_linear',
    'inline_attention_naive',
    'inline_attention_weights',
    'may_shift',
    'padded_shape',
    'relative_position_index',
    'resize_pos_embed',
    'shift_mask',
    'softmax_attention',
    'token_mean',
    'window_shift',
]

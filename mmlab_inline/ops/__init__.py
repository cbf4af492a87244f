"""Pure tensor functions; they import nothing of this package but each other."""

from .dispatch import fast_form_is_cheaper, inline_attention
from .eager import runs_eagerly_on_cpu
from .gated_scan import bidirectional_scan
from .heads import merge_heads, split_heads
from .inline_attention import (
    KERNELS,
    InLineWeights,
    inline_attention_banded,
    inline_attention_fast,
    inline_attention_linear,
    inline_attention_naive,
    inline_attention_of_qkv,
    inline_attention_weights,
    token_mean,
    without_autocast,
)
from .inline_attention_fused import inline_attention_fused, triton_is_available
from .linear_attention import (
    EPSILON,
    POSITIVE_KERNELS,
    TINY,
    channel_weights,
    kernel_attention,
    normalised_attention,
    normalised_weights,
    positive_features,
    weighted_means,
)
from .local_residual import dynamic_depthwise3x3
from .mlp import hidden_tokens_are_big, streamed_mlp
from .pos_embed import resize_pos_embed
from .resample import pool_map, resize_map
from .softmax_attention import self_adjusted_attention, softmax_attention
from .stripes import apply_in_stripes
from .windows import (
    apply_in_windows,
    may_shift,
    pad_to_multiple,
    padded_shape,
    relative_position_index,
    shift_mask,
    window_shift,
)

__all__ = [
    'EPSILON',
    'KERNELS',
    'POSITIVE_KERNELS',
    'TINY',
    'InLineWeights',
    'apply_in_stripes',
    'apply_in_windows',
    'bidirectional_scan',
    'channel_weights',
    'dynamic_depthwise3x3',
    'fast_form_is_cheaper',
    'hidden_tokens_are_big',
    'inline_attention',
    'inline_attention_banded',
    'inline_attention_fast',
    'inline_attention_fused',
    'inline_attention_linear',
    'inline_attention_naive',
    'inline_attention_of_qkv',
    'inline_attention_weights',
    'kernel_attention',
    'may_shift',
    'merge_heads',
    'normalised_attention',
    'normalised_weights',
    'pad_to_multiple',
    'padded_shape',
    'pool_map',
    'positive_features',
    'relative_position_index',
    'resize_map',
    'resize_pos_embed',
    'runs_eagerly_on_cpu',
    'self_adjusted_attention',
    'shift_mask',
    'softmax_attention',
    'split_heads',
    'streamed_mlp',
    'token_mean',
    'triton_is_available',
    'weighted_means',
    'window_shift',
    'without_autocast',
]

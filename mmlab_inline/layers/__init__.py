"""Modules; they import ops and utils."""

from .block import Block
from .inline_attention import InLineAttention
from .mlp import Mlp
from .patches import PatchEmbed, PatchMerging
from .spatial_reduction_attention import SpatialReductionAttention
from .token_mixer import TOKEN_MIXERS, MixerContext, build_token_mixer
from .window_attention import WindowAttention

__all__ = [
    'TOKEN_MIXERS',
    'Block',
    'InLineAttention',
    'MixerContext',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'SpatialReductionAttention',
    'WindowAttention',
    'build_token_mixer',
]

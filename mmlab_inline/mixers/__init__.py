"""Token mixers: attentions that the backbones choose from by name, a file each."""

from .base import TOKEN_MIXERS, MixerContext, build_token_mixer
from .inline import InLineAttention
from .spatial_reduction import SpatialReductionAttention
from .window import WindowAttention

__all__ = [
    'TOKEN_MIXERS',
    'InLineAttention',
    'MixerContext',
    'SpatialReductionAttention',
    'WindowAttention',
    'build_token_mixer',
]

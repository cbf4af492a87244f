"""Token mixers: attentions that the backbones choose from by name, a file each.

One more is one more file, and its line in the first import.
"""

from . import (  # noqa: F401 - each enters itself in the table
    agent,
    cosformer,
    efficient,
    fcvit,
    focused,
    global_softmax,
    hydra,
    inline,
    l2vit,
    linear,
    linear_angular,
    mala,
    metala,
    mlla,
    rala,
    rmt,
    spatial_reduction,
    taylor,
    vicinity,
    vig,
    window,
)
from .base import TOKEN_MIXERS, QKVMixer, Site, TokenMixer, token_mixer
from .build import (
    AttentionSpec,
    as_options,
    build_attention,
    build_token_mixer,
    initialise,
    list_attentions,
    mixer_class,
    resolve_attention,
    shortest_attention,
)
from .cswin import CSWIN_ATTENTIONS, CSwinAttention
from .global_softmax import GlobalAttention
from .inline import InLineAttention
from .spatial_reduction import SpatialReductionAttention
from .weights import Weights
from .window import WindowAttention

__all__ = [
    'CSWIN_ATTENTIONS',
    'TOKEN_MIXERS',
    'AttentionSpec',
    'CSwinAttention',
    'GlobalAttention',
    'InLineAttention',
    'QKVMixer',
    'Site',
    'SpatialReductionAttention',
    'TokenMixer',
    'Weights',
    'WindowAttention',
    'as_options',
    'build_attention',
    'build_token_mixer',
    'initialise',
    'list_attentions',
    'mixer_class',
    'resolve_attention',
    'shortest_attention',
    'token_mixer',
]

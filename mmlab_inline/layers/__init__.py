"""Modules that the backbones and the token mixers are made of; they import ops and utils."""

from .block import Block
from .drop_path import DropPath
from .init import init_linear_and_norm, trunc_normal_
from .local_residual import LocalKernels
from .mlp import Mlp
from .patches import PatchEmbed, PatchMerging
from .plain import is_plain
from .token_conv import convolve_tokens

__all__ = [
    'Block',
    'DropPath',
    'LocalKernels',
    'Mlp',
    'PatchEmbed',
    'PatchMerging',
    'convolve_tokens',
    'init_linear_and_norm',
    'is_plain',
    'trunc_normal_',
]

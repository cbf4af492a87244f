"""Modules that the backbones and the token mixers are made of; they import ops and utils."""

from .batch_norm import batch_norms, build_batch_norm, statistics_kept
from .block import Block, CSwinBlock
from .drop_path import DropPath
from .init import init_conv, init_linear_and_norm, trunc_normal_
from .local_concentration import LocalConcentration
from .local_residual import LocalKernels
from .mlp import Mlp
from .patches import ConvEmbed, ConvMerging, OverlapEmbed, PatchEmbed, PatchMerging
from .plain import is_plain
from .token_conv import convolve_tokens

__all__ = [
    'Block',
    'CSwinBlock',
    'ConvEmbed',
    'ConvMerging',
    'DropPath',
    'LocalConcentration',
    'LocalKernels',
    'Mlp',
    'OverlapEmbed',
    'PatchEmbed',
    'PatchMerging',
    'batch_norms',
    'build_batch_norm',
    'convolve_tokens',
    'init_conv',
    'init_linear_and_norm',
    'is_plain',
    'statistics_kept',
    'trunc_normal_',
]

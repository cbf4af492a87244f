"""Modules that the backbones and the token mixers are made of; they import ops and utils."""

from .block import Block
from .mlp import Mlp
from .patches import PatchEmbed, PatchMerging
from .plain import is_plain

__all__ = ['Block', 'Mlp', 'PatchEmbed', 'PatchMerging', 'is_plain']

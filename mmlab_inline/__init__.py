"""InLine attention backbones for dense prediction with mmdet and mmseg."""

from .backbones import InLinePVT, InLineSwin
from .layers import InLineAttention
from .version import __version__

__all__ = ['InLineAttention', 'InLinePVT', 'InLineSwin', '__version__']

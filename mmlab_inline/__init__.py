"""InLine attention backbones for dense prediction with mmdet and mmseg."""

import sys

from .version import __version__

# `python -m mmlab_inline` reports on environments in which these imports fail.
if sys.argv[:1] != ['-m'] or 'mmlab_inline' not in sys.orig_argv:
    from .backbones import InLinePVT, InLineSwin
    from .mixers import InLineAttention, build_attention, list_attentions

__all__ = [
    'InLineAttention',
    'InLinePVT',
    'InLineSwin',
    '__version__',
    'build_attention',
    'list_attentions',
]

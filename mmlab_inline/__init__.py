"""InLine attention backbones for dense prediction with mmdet and mmseg."""

import sys

from .version import __version__

# `python -m mmlab_inline` reports on environments in which these imports fail.
if sys.argv[:1] != ['-m'] or 'mmlab_inline' not in sys.orig_argv:
    try:
        from .backbones import InLinePVT, InLineSwin
        from .layers import InLineAttention
    except (ImportError, OSError, RuntimeError) as error:  # of torch, torchvision, mmengine ...
        reason = ' '.join(str(error).split())
        raise ImportError(f'{reason}; python -m mmlab_inline says what to do') from error

__all__ = ['InLineAttention', 'InLinePVT', 'InLineSwin', '__version__']

"""InLine attention backbones for dense prediction with mmdet and mmseg."""

import sys
from pathlib import Path

from . import environment
from .version import __version__

_TOOLS = [environment.PACKAGE.parent / 'tools', environment.PACKAGE / '.mim' / 'tools']
if any(Path(sys.argv[0]).resolve().is_relative_to(folder) for folder in _TOOLS if sys.argv[0]):
    sys.excepthook = environment.explain_import_error

# `python -m mmlab_inline` reports on environments in which these imports fail.
if sys.argv[:1] != ['-m'] or 'mmlab_inline' not in sys.orig_argv:
    try:
        from .backbones import InLinePVT, InLineSwin
        from .layers import InLineAttention
    except (ImportError, OSError, RuntimeError) as error:  # of torch, torchvision, mmengine ...
        reason = ' '.join(str(error).split())
        raise ImportError(f'{reason}; python -m mmlab_inline says what to do') from error

__all__ = ['InLineAttention', 'InLinePVT', 'InLineSwin', '__version__']

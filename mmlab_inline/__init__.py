"""InLine attention backbones for dense prediction with mmdet and mmseg."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import environment
from .utils import lazy_names
from .version import __version__

if TYPE_CHECKING:
    from .backbones import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT
    from .mixers import InLineAttention, build_attention, list_attentions

__all__ = [
    'InLineAttention',
    'InLineCSwin',
    'InLineDeiT',
    'InLinePVT',
    'InLineSwin',
    'L2ViT',
    '__version__',
    'build_attention',
    'list_attentions',
]

_TOOLS = [environment.PACKAGE.parent / 'tools', environment.PACKAGE / '.mim' / 'tools']
if any(Path(sys.argv[0]).resolve().is_relative_to(folder) for folder in _TOOLS if sys.argv[0]):
    sys.excepthook = environment.explain_import_error
    environment.refuse_both_families()

# Torch comes with the first of these that is used: --help of the tools does without.
_PLACES = {
    'backbones': ('InLineCSwin', 'InLineDeiT', 'InLinePVT', 'InLineSwin', 'L2ViT'),
    'mixers': ('InLineAttention', 'build_attention', 'list_attentions'),
    'layers': (),
    'ops': (),
}
_find = lazy_names(__name__, _PLACES)


def __getattr__(name: str) -> object:
    try:
        return _find(name)
    except (ImportError, OSError, RuntimeError) as error:  # of torch, torchvision, mmengine ...
        raise _with_advice(error) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _with_advice(error: Exception) -> ImportError:
    return ImportError(f'{" ".join(str(error).split())}; python -m mmlab_inline says what to do')


# `python -m mmlab_inline` reports on environments in which mmengine does not import.
if sys.argv[:1] != ['-m'] or 'mmlab_inline' not in sys.orig_argv:
    try:
        from .registry import announce_backbones
    except (ImportError, OSError, RuntimeError) as error:
        raise _with_advice(error) from error

    announce_backbones(_PLACES['backbones'])

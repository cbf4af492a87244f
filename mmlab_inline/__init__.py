"""InLine attention backbones for dense prediction with mmdet and mmseg."""

import sys
from typing import TYPE_CHECKING

from .utils import lazy_names
from .version import __version__

if TYPE_CHECKING:
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

# Torch comes with the first of these that is used: --help of the tools does without.
_PLACES = {
    'backbones': ('InLinePVT', 'InLineSwin'),
    'mixers': ('InLineAttention', 'build_attention', 'list_attentions'),
    'layers': (),
    'ops': (),
}
__getattr__ = lazy_names(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# `python -m mmlab_inline` reports on environments in which mmengine does not import.
if sys.argv[:1] != ['-m'] or 'mmlab_inline' not in sys.orig_argv:
    from .registry import announce_backbones

    announce_backbones(_PLACES['backbones'])

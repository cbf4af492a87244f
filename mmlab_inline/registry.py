"""Where mmdet and mmseg find what this package adds.

``type='mmlab_inline.InLinePVT'`` resolves in any mm config without an import, because mmengine
imports this module for the unknown scope. A bare ``type='InLinePVT'`` resolves once
``mmlab_inline`` has been imported, by ``custom_imports=dict(imports=['mmlab_inline'])``. The import
also makes ``_base_ = 'mmlab_inline::...'`` resolve. It takes no torch: that comes with the first
class that is looked up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine.config import config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import RUNNERS as ROOT_RUNNERS
from mmengine.registry import STRATEGIES as ROOT_STRATEGIES
from mmengine.registry import VISBACKENDS as ROOT_VISBACKENDS
from mmengine.registry import Registry
from mmengine.utils import get_installed_path

MODELS = Registry(
    'model', scope='mmlab_inline', parent=ROOT_MODELS, locations=['mmlab_inline.backbones']
)
HOOKS = Registry(
    'hook',
    scope='mmlab_inline',
    parent=ROOT_HOOKS,
    # Reports need mmcv, which importing the engine does not take.
    locations=['mmlab_inline.engine', 'mmlab_inline.report'],
)
LOOPS = Registry('loop', scope='mmlab_inline', parent=ROOT_LOOPS, locations=['mmlab_inline.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    scope='mmlab_inline',
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    locations=['mmlab_inline.engine'],
)
RUNNERS = Registry(
    'runner', scope='mmlab_inline', parent=ROOT_RUNNERS, locations=['mmlab_inline.engine']
)
STRATEGIES = Registry(
    'strategy', scope='mmlab_inline', parent=ROOT_STRATEGIES, locations=['mmlab_inline.engine']
)
VISBACKENDS = Registry(
    'vis_backend',
    scope='mmlab_inline',
    parent=ROOT_VISBACKENDS,
    locations=['mmlab_inline.report'],
)

# mmengine knows the packages whose configs may be inherited by a list of its own.
MODULE2PACKAGE.setdefault('mmlab_inline', 'mmlab_inline')


def _path_of_package(package: str) -> str:
    """As mmengine's, which up to 0.10.7 looks for an editable install in site-packages."""
    if package == 'mmlab_inline':
        return str(Path(__file__).parent)
    return get_installed_path(package)


config.get_installed_path = _path_of_package


_announced: dict[str, Callable] = {}


def announce_backbones(names: Sequence[str]) -> None:
    """Let bare names build backbones that nobody has imported yet.

    mmengine imports no ``locations`` for a name without a prefix.
    """
    for name in names:
        _announced[name] = _builder(name)
        ROOT_MODELS.register_module(name, module=_announced[name])


def _builder(name: str) -> Callable:
    def build(*args: object, **kwargs: object) -> object:
        return MODELS.get(name)(*args, **kwargs)

    return build


def register_backbone(cls: type) -> type:
    """Class decorator: register under the prefixed and under the bare name."""
    MODELS.register_module(module=cls)
    announced = cls.__name__ in _announced
    if announced:
        del _announced[cls.__name__]
    ROOT_MODELS.register_module(module=cls, force=announced)
    return cls

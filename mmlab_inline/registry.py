"""Where mmdet and mmseg find what this package adds.

``type='mmlab_inline.InLinePVT'`` resolves in any mm config without an import, because mmengine
imports this module for the unknown scope. A bare ``type='InLinePVT'`` resolves once
``mmlab_inline`` has been imported, by ``custom_imports=dict(imports=['mmlab_inline'])``. The import
also makes ``_base_ = 'mmlab_inline::...'`` resolve. It takes no torch: that comes with the first
class that is looked up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from mmengine import registry as root
from mmengine.config import config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.utils import get_installed_path


def _registry(parent: root.Registry, *rooms: str) -> root.Registry:
    places = [f'mmlab_inline.{room}' for room in rooms]
    return root.Registry(parent.name, scope='mmlab_inline', parent=parent, locations=places)


MODELS = _registry(root.MODELS, 'backbones')
# Reports need mmcv, which importing the engine does not take.
HOOKS = _registry(root.HOOKS, 'engine', 'report')
LOOPS = _registry(root.LOOPS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _registry(root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
RUNNERS = _registry(root.RUNNERS, 'engine')
STRATEGIES = _registry(root.STRATEGIES, 'engine')
VISBACKENDS = _registry(root.VISBACKENDS, 'report')

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
        root.MODELS.register_module(name, module=_announced[name])


def _builder(name: str) -> Callable:
    def build(*args: object, **kwargs: object) -> object:
        return MODELS.get(name)(*args, **kwargs)

    build.backbone = name
    return build


def register_backbone(cls: type) -> type:
    """Class decorator: register under the prefixed and under the bare name."""
    MODELS.register_module(module=cls)
    announced = cls.__name__ in _announced
    if announced:
        del _announced[cls.__name__]
    root.MODELS.register_module(module=cls, force=announced)
    return cls


# What build functions take out of a dict before they look at the signature of its type.
CONSUMED = {'type', '_delete_', '_scope_', 'constructor', 'paramwise_cfg', 'optimizer'}


def registered(type_name: str, scope: str) -> Callable | None:
    """The class or function that any registry knows as ``type_name``, or None.

    Args:
        type_name: With or without scope.
        scope: Where a name without one is looked for.
    """
    name = type_name if '.' in type_name else f'{scope}.{type_name}'
    registries = (item for item in vars(root).values() if isinstance(item, root.Registry))
    found = next(filter(None, (registry.get(name) for registry in registries)), None)
    return MODELS.get(found.backbone) if hasattr(found, 'backbone') else found

"""Settings that a config inherits for a class that it has replaced."""

import inspect
from collections.abc import Iterator, Mapping

from mmengine.config import Config

from ..registry import CONSUMED, registered
from ..utils import UserError, did_you_mean

# Parts of a config whose dicts are built, and set by the keywords of a class alone.
_BUILT = ('model', 'optim_wrapper', 'train_cfg', 'val_cfg', 'val_evaluator', 'test_evaluator')


def check_leftovers(cfg: Config) -> None:
    """Check that no class gets the settings of one in the base config whose place it takes.

    Raises:
        UserError: One does; names all such settings.
    """
    found = []
    for part in _BUILT:
        for place, node in _typed(cfg.get(part), part):
            cls = registered(str(node['type']), cfg.get('default_scope', 'mmengine'))
            known = inspect.signature(cls).parameters if cls else {}
            if cls and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                left = [key for key in node if key not in known.keys() | CONSUMED]
                if left:
                    near = did_you_mean(left[0], known) if len(left) == 1 else ''
                    named = ', '.join(left) + near
                    found.append(f'{place} of type {node["type"]} takes no {named}')
    if found:
        raise UserError(
            f'{"; ".join(found)}: what a _base_ config sets there stays unless _delete_=True is '
            'beside the type'
        )


def _typed(node: object, place: str) -> Iterator[tuple[str, Mapping]]:
    """Every dict with a type in a nest, and its place; settings of layers are of other builders."""
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _typed(item, f'{place}[{index}]')
    elif isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            yield place, node
        for key, item in node.items():
            if not key.endswith('_cfg'):
                yield from _typed(item, f'{place}.{key}')

"""Reading a config as the tools do: with checked options and one line where it is wrong."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..registry import CONSUMED, registered
from ..runs import import_quietly
from ..utils import UserError, did_you_mean, one_line

# Dicts whose keys are the user's own, or read by no signature.
_FREE_FORM = {'paramwise_cfg', 'custom_keys', 'metainfo', 'init_kwargs', 'backend_args'}
# What mmengine takes out of a loader's settings before torch's DataLoader gets them.
_OF_LOADERS = {'num_batch_per_epoch', '_delete_'}
# How alike a new key and one beside it are that are taken for a slip.
_NEAR_MISS = 0.72


def load_config(path: str, options: Mapping | None = None) -> Config:
    """Parse a config and merge ``--cfg-options`` into it.

    Args:
        path: Config file, or what ``_base_`` takes: ``'PACKAGE::FILE'``.
        options: Dotted keys and values.

    Raises:
        UserError: The file is missing or does not parse, or an option's key is unknown.
    """
    path = _found(path)
    if not Path(path).is_file():
        near = did_you_mean(path, map(str, _sibling_configs(path)))
        raise UserError(f'config {path} does not exist{near}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        raise UserError(f'config {path} does not parse: {one_line(error)}') from None
    if scope := cfg.get('default_scope'):
        import_quietly(scope)
    if options:
        check_options(cfg, options)
        try:
            cfg.merge_from_dict(dict(options))
        except (KeyError, TypeError, IndexError, AssertionError) as error:
            raise UserError(f'--cfg-options do not fit {path}: {one_line(error)}') from None
    return cfg


def check_options(cfg: Config, options: Mapping) -> None:
    """Refuse option keys that would be swallowed silently.

    A key must stand in the config or in the signature of the class that the enclosing ``type``
    names. Where no class is known that reads a dict, a new key may only not be a slip of a
    present one.

    Raises:
        UserError: It does not; the message suggests the nearest known key.
    """
    scope = cfg.get('default_scope', 'mmengine')
    for option in options:
        node = cfg._cfg_dict
        known_to_class: set[str] | None = set(inspect.signature(Runner.__init__).parameters)
        parts = option.split('.')
        for depth, part in enumerate(parts):
            if isinstance(node, list | tuple):
                if not part.isdigit() or int(part) >= len(node):
                    place = '.'.join(parts[:depth])
                    raise UserError(
                        f'--cfg-options {option}: {place} is a list of {len(node)} items, '
                        f'index them by 0..{len(node) - 1}'
                    )
                node = node[int(part)]
                continue
            if not isinstance(node, Mapping):
                break
            new_type = options.get('.'.join([*parts[:depth], 'type']), node.get('type'))
            if isinstance(new_type, str):
                known_to_class = _keywords(new_type, scope)
            elif depth == 1 and parts[0].endswith('_dataloader'):
                known_to_class = set(inspect.signature(DataLoader).parameters) | _OF_LOADERS
            elif depth:
                known_to_class = None
            if part not in node:
                known = {*node, *(known_to_class or ())}
                near = did_you_mean(part, known, 0.6 if known_to_class else _NEAR_MISS)
                if part not in known | CONSUMED and (known_to_class or near):
                    raise UserError(f'--cfg-options {option}: unknown key {part!r}{near}')
                break
            if part in _FREE_FORM:
                break
            node = node[part]


def pretrained_settings(cfg: Config) -> Iterator[tuple[dict, dict]]:
    """Every part of the model that asks for pretrained weights, with what it asks for."""
    for node in dicts(cfg.get('model', {})):
        for item in _init_items(node):
            if item.get('type') == 'Pretrained':
                yield node, item


def drop_pretrained(cfg: Config) -> None:
    """Start from random weights."""
    for node, _ in list(pretrained_settings(cfg)):
        node['init_cfg'] = [
            item for item in _init_items(node) if item.get('type') != 'Pretrained'
        ] or None


def dicts(node: object) -> Iterator[dict]:
    """Every dict in a nest of dicts, lists and tuples, the outer ones first."""
    if isinstance(node, Mapping):
        yield node
        node = node.values()
    elif not isinstance(node, list | tuple):
        return
    for child in node:
        yield from dicts(child)


def _init_items(node: Mapping) -> list[Mapping]:
    """``init_cfg`` of a part, which may be one dict, several or none."""
    init_cfg = node.get('init_cfg')
    items = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    return [item for item in items if isinstance(item, Mapping)]


def _keywords(type_name: str, scope: str) -> set[str] | None:
    """Keywords of the class or function registered as ``type_name``, base classes included.

    None if there is none of the name.
    """
    found = registered(type_name, scope)
    if found is None:
        return None
    keywords: set[str] = set()
    for cls in inspect.getmro(found) if inspect.isclass(found) else (found,):
        parameters = inspect.signature(cls).parameters.values()
        keywords |= {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return keywords


def _found(path: str) -> str:
    """The file of a config that is named as in ``_base_``, such as ``'mmlab_inline::...'``."""
    if '::' not in path:
        return path
    try:
        return Config._get_cfg_path(path, '')[0]
    except Exception as error:  # of packages that are absent or have no such config
        raise UserError(f'config {path} is not found: {one_line(error)}') from None


def _sibling_configs(path: str) -> list[Path]:
    folder = Path(path).parent
    return sorted(folder.glob('*.py')) if folder.is_dir() else []

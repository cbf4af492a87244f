"""Names and counts of what a run builds late, judged before it starts."""

from collections.abc import Iterator, Mapping
from numbers import Integral, Real

from mmengine.config import Config

from ..registry import registered
from ..utils import UserError

# Beside the model and the optimizer, and with the transforms of their data.
_BUILT_BY_RUNS = (
    *(f'{split}_{part}' for part in ('cfg', 'dataloader') for split in ('train', 'val', 'test')),
    *('param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks'),
    *('log_processor', 'visualizer'),
)
_COUNTS = {
    'train_cfg': {'max_epochs', 'max_iters', 'val_interval'},
    **{f'{split}_dataloader': {'batch_size'} for split in ('train', 'val', 'test')},
}


def check_parts(cfg: Config) -> None:
    """Check that the parts that a run builds as it goes are known, and that its counts are counts.

    Builds nothing: metrics and hooks may need what only a run has.

    Raises:
        UserError: There is no class of a name, or a count is none; says which.
    """
    for part in _BUILT_BY_RUNS:
        for place, node in _typed(cfg.get(part), part):
            name, scope = node['type'], node.get('_scope_') or cfg.get('default_scope', 'mmengine')
            if isinstance(name, str) and registered(name, scope) is None:
                raise UserError(f'{place}: {name} is unknown, or its package is not installed')
    for part, names in _COUNTS.items():
        settings = cfg.get(part) or {}
        if not isinstance(settings, Mapping):
            raise UserError(f'{part}={settings!r} must be a dict')
        kind = Real if part == 'train_cfg' else Integral  # mmengine's loops take 4e4
        for name in names & settings.keys():
            count = settings[name]
            is_number = isinstance(count, kind) and not isinstance(count, bool)
            if not (is_number and count >= 1 and count % 1 == 0):
                raise UserError(f'{part}.{name}={count!r} must be a whole number of at least 1')


def _typed(node: object, place: str) -> Iterator[tuple[str, Mapping]]:
    """The outermost dicts with a type in a nest, those of pipelines in them, and their places."""
    if isinstance(node, list | tuple):
        node = {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, Mapping):
        return
    if 'type' in node:
        yield place, node
        # What is deeper is for the part itself to read; datasets lie in wrappers.
        node = {key: node[key] for key in ('dataset', 'datasets', 'pipeline') if key in node}
    for key, item in node.items():
        yield from _typed(item, f'{place}.{key}')

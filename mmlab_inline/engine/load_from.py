"""Starting from the weights of another run: all of them, or all but those shaped by the classes."""

from collections.abc import Mapping
from functools import partial

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from ..utils import UserError, compare_state_dict, of_another_model, read_weights
from .config import dicts
from .model import as_named_here, build_model, unwrapped_model

# Where heads are told how many classes there are; panoptic heads have two kinds of them.
_CLASS_KEYS = ('num_classes', 'num_things_classes')


def prepare_load_from(runner: Runner, new_classes: bool = False) -> None:
    """Make sure that ``load_from`` of the config fills the whole model.

    mmengine by itself loads what happens to fit, and logs the rest.

    Args:
        runner: A runner that has not started.
        new_classes: The checkpoint may have another number of classes. The tensors whose shape
            depends on it keep their random values, and are listed.

    Raises:
        UserError: The checkpoint is unreadable or of another model, or has another number of
            classes without ``new_classes``.
    """
    path = runner.cfg.get('load_from')
    if runner.cfg.get('resume'):
        return
    if not path:
        if new_classes:
            raise UserError('--new-classes needs a checkpoint: add --load-from PATH')
        return
    try:
        given, meta = read_weights(
            path, partial(CheckpointLoader.load_checkpoint, map_location='cpu')
        )
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
    own = unwrapped_model(runner).state_dict()
    given = as_named_here(given, own)
    difference = compare_state_dict(own, given)
    fresh: list[str] = []
    if difference:
        counts, fresh = class_shaped(runner.cfg.model, own, given)
        if not fresh:
            raise of_another_model(path, difference)
        if not new_classes:
            raise UserError(
                f'{path} has {counts}; with --new-classes all is loaded but the {len(fresh)} '
                f'tensors that depend on it (such as {fresh[0]})'
            )
        runner.logger.info(
            f'{path} has {counts}: {len(fresh)} of {len(own)} tensors start afresh:\n  '
            + '\n  '.join(fresh)
        )
    elif new_classes:
        runner.logger.info(f'{path} has as many classes as the config: all of it is loaded')
    _hand_over(runner, dict(state_dict=given, meta=meta))
    if fresh:
        runner.register_hook(_FillUpHook(fresh))


def class_shaped(
    model_cfg: Mapping, own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> tuple[str, list[str]]:
    """Names of the tensors whose shape depends on the number of classes.

    They are found by building the model with one class more, which is exact for every head.

    Args:
        model_cfg: Config of the model.
        own: Its state dict.
        given: State dict with the same names.

    Returns:
        Both numbers of classes in words, and the names; none if ``given`` differs in anything
        that another number of classes does not explain.
    """
    wider = build_model(_one_class_more(model_cfg)).state_dict()
    if not own.keys() == given.keys() == wider.keys():
        return '', []
    growth = {
        name: tuple(more - now for more, now in zip(wider[name].shape, value.shape, strict=True))
        for name, value in own.items()
    }
    names = [name for name in own if any(growth[name])]
    if not names or given[names[0]].ndim != own[names[0]].ndim:
        return '', []
    axis, step = next((axis, step) for axis, step in enumerate(growth[names[0]]) if step)
    surplus, rest = divmod(given[names[0]].shape[axis] - own[names[0]].shape[axis], step)
    for name, value in own.items():
        shape = zip(value.shape, growth[name], strict=True)
        if rest or tuple(given[name].shape) != tuple(n + surplus * step for n, step in shape):
            return '', []
    numbers = {node[key] for node in dicts(model_cfg) for key in _CLASS_KEYS if key in node}
    if len(numbers) == 1:
        (number,) = numbers
        return f'{number + surplus} classes instead of {number}', names
    return f'{abs(surplus)} classes {"more" if surplus > 0 else "less"}', names


def _hand_over(runner: Runner, checkpoint: dict) -> None:
    """Let a runner take a checkpoint that has been read where it would read the file, once."""
    load = runner.load_checkpoint

    def load_checkpoint(*args: object, **settings: object) -> object:
        runner.load_checkpoint = load  # keeps the checkpoint no longer
        read = CheckpointLoader.load_checkpoint
        CheckpointLoader.load_checkpoint = lambda *args, **settings: checkpoint
        try:
            return load(*args, **settings)
        finally:
            CheckpointLoader.load_checkpoint = read

    runner.load_checkpoint = load_checkpoint


class _FillUpHook(Hook):
    """Completes a loaded state dict by the model's own tensors, before other hooks see it.

    Args:
        names: Tensors to take from the model.
    """

    priority = 'VERY_HIGH'

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        own = unwrapped_model(runner).state_dict()
        checkpoint['state_dict'] |= {name: own[name] for name in self.names}


def _one_class_more(node: object) -> object:
    if isinstance(node, Mapping):
        return {
            key: value + 1
            if key in _CLASS_KEYS and isinstance(value, int)
            else _one_class_more(value)
            for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return type(node)(map(_one_class_more, node))
    return node

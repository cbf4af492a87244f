"""ImageNet weights into a backbone: everything, or an error."""

import re

from mmengine.logging import print_log
from torch import nn

from ..utils import load_checkpoint, unwrap_state_dict
from .key_converters import to_own_format

# Buffers in published files that are computed afresh here.
RECOMPUTED = re.compile(r'\b(attn_mask|relative_position_index)$')
_CLASSIFICATION = re.compile(r'^(head|norm)\.')
_OUTPUT_NORM = re.compile(r'^norm\d\.')


def load_pretrained(model: nn.Module, path: str, prefix: str | None = None) -> None:
    """Load a released, converted or detector checkpoint into a backbone.

    The names may be those here, or any that :func:`.key_converters.to_own_format` knows.

    Args:
        model: The backbone.
        path: ``.pth`` or ``.safetensors`` file; the state dict may lie under ``state_dict`` or
            ``model``.
        prefix: Take only keys below it, for example ``'backbone.'`` of a detector checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds less than every parameter except output norms, other shapes, or
            parameters of a bigger model. Nothing has been loaded then.
    """
    try:
        state_dict = unwrap_state_dict(load_checkpoint(path))
    except ValueError as error:
        raise ValueError(f'cannot load {path}: {error}') from None
    if prefix:
        prefix = prefix.rstrip('.') + '.'
        state_dict = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
    state_dict = to_own_format(state_dict)
    weights = {
        key: value
        for key, value in state_dict.items()
        if not (_CLASSIFICATION.match(key) or RECOMPUTED.search(key))
    }
    own = dict(model.named_parameters())
    missing = [key for key in own if key not in weights and not _OUTPUT_NORM.match(key)]
    surplus = [key for key in weights if key not in own and not _OUTPUT_NORM.match(key)]
    reshaped = [
        f'{key} {tuple(weights[key].shape)} instead of {tuple(own[key].shape)}'
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    problems = [
        f'{len(keys)} {what} (such as {keys[0]})'
        for keys, what in (
            (missing, 'parameters missing'),
            (surplus, 'unknown'),
            (reshaped, 'of another shape'),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f'{path} does not fit {type(model).__name__}: {"; ".join(problems)}. '
            'Nothing was loaded; take the file of this arch and these settings'
        )
    model.load_state_dict(weights, strict=False)
    print_log(
        f'{type(model).__name__}: {len(weights)} tensors loaded from {path}, '
        f'{len(state_dict) - len(weights)} classification tensors left out',
        logger='current',
    )

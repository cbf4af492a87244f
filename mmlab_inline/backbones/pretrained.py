"""ImageNet weights into a backbone: everything, or an error."""

import re
from collections.abc import Iterator, Mapping

from mmengine.logging import print_log
from torch import Tensor, nn

from ..utils import (
    CheckpointError,
    Difference,
    compare_state_dict,
    did_you_mean,
    of_another_model,
    read_weights,
)
from .key_converters import is_plain_vit, to_own_format

# Buffers in published files that are computed afresh here.
RECOMPUTED = re.compile(r'\b(attn_mask|relative_position_index)$')
_LEFT_OUT = re.compile(rf'^(head|norm)\.|{RECOMPUTED.pattern}')
# What either side may lack: output norms, a plain network's pyramid, and how many batches a
# BatchNorm has seen.
_OPTIONAL = re.compile(r'^(norm|fpn)\d\.|\.num_batches_tracked$')


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
        CheckpointError: The file holds less than every parameter except output norms, other
            shapes, or parameters of a bigger model. Nothing has been loaded then.
    """
    stored, _ = read_weights(path)
    state_dict = without_common_prefix(stored)
    if prefix:
        # Which may be, or begin with, one that all names share.
        state_dict = next(filter(None, (below(prefix, some) for some in _unwrapped(stored))), None)
        if not state_dict:
            parts = {name.partition('.')[0] + '.' for name in stored}
            raise CheckpointError(
                f'{path} holds nothing below prefix={prefix!r}{did_you_mean(prefix, parts)}'
            )
    weights, left_out = split_backbone(state_dict)
    difference = compare_backbone(model, weights)
    if difference:
        hint = ''
        if not prefix and any(name.startswith('backbone.') for name in weights):
            hint = "; a detector's or segmentor's needs init_cfg=dict(..., prefix='backbone.')"
        name = type(model).__name__
        remedy = f'Nothing was loaded; take the file of this {name}, its arch and settings{hint}'
        raise of_another_model(path, difference, remedy)
    model.load_state_dict(weights, strict=False)
    print_log(
        f'{type(model).__name__}: {len(weights)} tensors loaded from {path}, '
        f'{len(left_out)} classification tensors left out',
        logger='current',
    )


def without_common_prefix(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without a prefix that all its names share, such as Lightning's ``model.``.

    A part with numbered parts, such as the ``layers`` in which mmdet's PVT has everything, is no
    prefix; weights of a backbone that are saved below ``backbone.`` stay so.
    """
    return list(_unwrapped(state_dict))[-1]


def _unwrapped(state_dict: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """As it is, then without one part after another of a prefix that all names share."""
    state_dict = dict(state_dict)
    yield state_dict
    while len(parts := {name.partition('.')[0] for name in state_dict}) == 1:
        (part,) = parts
        if part == 'backbone' or part in state_dict:
            break
        inner = below(part, state_dict)
        if all(name.partition('.')[0].isdecimal() for name in inner):
            break
        state_dict = inner
        yield state_dict


def below(prefix: str, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    prefix = prefix.rstrip('.') + '.'
    return {
        name.removeprefix(prefix): value
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }


def split_backbone(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A backbone's weights under the names here, and the names of what no backbone holds.

    Args:
        state_dict: Weights of a backbone or classifier, without prefix.

    Returns:
        Weights, and names of classification parts and recomputable buffers.
    """
    state_dict = to_own_format(state_dict)
    left_out = [name for name in state_dict if _LEFT_OUT.search(name)]
    if is_plain_vit(state_dict):
        left_out = [name for name in left_out if not name.startswith('norm.')]
    return {name: value for name, value in state_dict.items() if name not in left_out}, left_out


def compare_backbone(model: nn.Module, weights: Mapping[str, Tensor]) -> Difference:
    """What weights lack or have too much, output norms apart, which may be on one side only."""
    return compare_state_dict(model.state_dict(), weights, _OPTIONAL.search)

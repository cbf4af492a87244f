"""Checkpoints of classifiers, detectors and segmentors into weights of a backbone."""

import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..backbones.key_converters import is_plain_vit
from ..backbones.pretrained import (
    below,
    compare_backbone,
    split_backbone,
    without_common_prefix,
)
from ..mixers import AttentionSpec
from ..utils import (
    CheckpointError,
    UserError,
    load_checkpoint,
    unwrap_state_dict,
    write_atomically,
)
from ..utils.safe_load import find_weights
from .recognition import Recognised, recognise

# LayerScale under timm's names and the authors', and the layer before.
_LAYER_SCALE = re.compile(r'(blocks\.\d+)\.(ls[12]\.gamma|gamma_[12])')
_SCALED = {
    'ls1.gamma': 'attn.proj',
    'gamma_1': 'attn.proj',
    'ls2.gamma': 'mlp.fc2',
    'gamma_2': 'mlp.fc2',
}


@dataclass(frozen=True)
class Conversion:
    """A backbone's weights out of a checkpoint.

    Attributes:
        model: What they are of.
        weights: Under the names here, with the shapes and types of the checkpoint.
        num_parameters: Numbers in them, running statistics of BatchNorm apart.
        missing: Output norms that the checkpoint lacks, as every classification checkpoint does.
        left_over: What else the checkpoint holds, by name: heads, necks, buffers, optimizer state.
    """

    model: Recognised
    weights: dict[str, Tensor]
    num_parameters: int
    missing: tuple[str, ...]
    left_over: tuple[str, ...]

    def describe(self) -> str:
        """What was recognised, matched, missing, left over and assumed, a line each."""
        return '\n'.join(
            (
                f'recognised  {self.model.name}',
                f'matched     {len(self.weights)} tensors, '
                f'{self.num_parameters / 1e6:.3f} M parameters',
                f'missing     {_groups(self.missing)}',
                f'left over   {_groups(self.left_over)}',
                f'assumed     {"; ".join(self.model.assumed) or "nothing"}',
            )
        )


def convert(checkpoint: dict, attention: AttentionSpec | None = None) -> Conversion:
    """Take a backbone's weights out of a checkpoint.

    Args:
        checkpoint: A released classification checkpoint of a backbone here, of PVT or of Swin, or
            a checkpoint of mmdet, mmseg or this project, whose ``backbone.`` is taken; or just the
            state dict of one.
        attention: As the backbones take it, where the weights do not tell.

    Raises:
        CheckpointError: It holds no model that is known here, or not exactly all of its weights.
    """
    state_dict = unwrap_state_dict(checkpoint)
    taken, _ = find_weights(checkpoint)
    left_over = [key for key in checkpoint if taken and key != taken]
    state_dict = without_common_prefix(state_dict)
    if any(name.startswith('backbone.') for name in state_dict):
        left_over += [name for name in state_dict if not name.startswith('backbone.')]
        state_dict = below('backbone', state_dict)
    weights, left_out = split_backbone(state_dict)
    if is_plain_vit(weights):
        weights = _without_layer_scale(weights)
    model = recognise(weights, attention)
    try:
        empty = model.build_empty()
    except ValueError as error:
        raise CheckpointError(f'it looks like {model.name}, but {error}') from None
    difference = compare_backbone(empty, weights)
    if difference:
        raise CheckpointError(f'it looks like {model.name}, but: {difference}')
    missing = tuple(name for name in empty.state_dict() if name not in weights)
    num_parameters = sum(p.numel() for name, p in empty.named_parameters() if name in weights)
    return Conversion(model, weights, num_parameters, missing, (*left_out, *left_over))


def convert_file(
    source: str | Path,
    target: str | Path,
    force: bool = False,
    attention: AttentionSpec | None = None,
) -> Conversion:
    """Write the backbone's weights in a file into another.

    Args:
        source: ``.pth`` or ``.safetensors`` file that :func:`convert` understands.
        target: ``.pth`` file, which gets ``{'state_dict': ...}``, or ``.safetensors`` file. It is
            there whole or not at all.
        force: Write over an existing target.
        attention: As for :func:`convert`.

    Raises:
        UserError: A file cannot be read, written or converted, or stands in the way.
    """
    source, target = Path(source), Path(target)
    if target.suffix not in ('.pth', '.safetensors'):
        raise UserError(f'{target}: the name must end in .pth or .safetensors')
    if target.exists():
        if source.exists() and target.samefile(source):
            raise UserError(f'{target} is the file to convert; write to another')
        if not force:
            raise UserError(f'{target} exists; --force writes over it')
    conversion = read_and_convert(source, attention)
    save_weights(conversion.weights, target)
    return conversion


def read_and_convert(source: str | Path, attention: AttentionSpec | None = None) -> Conversion:
    """:func:`convert` of a file.

    Raises:
        UserError: It cannot be read or converted.
    """
    checkpoint = load_checkpoint(source)
    try:
        return convert(checkpoint, attention)
    except CheckpointError as error:
        raise CheckpointError(f'{source}: {error}') from None


def save_weights(weights: Mapping[str, Tensor], target: str | Path) -> None:
    """Write ``{'state_dict': weights}``, or the weights alone where the name ends in .safetensors.

    Raises:
        UserError: The file cannot be written; what was there before is intact.
    """
    # Slices of bigger tensors would be saved with all of them.
    weights = {name: value.clone().contiguous() for name, value in weights.items()}
    if Path(target).suffix == '.safetensors':
        content = save(weights, metadata=dict(format='pt'))
    else:
        file = io.BytesIO()
        torch.save(dict(state_dict=weights), file)
        content = file.getvalue()
    write_atomically(target, content)


def _without_layer_scale(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of DeiT III as those of a ViT that computes the same.

    A layer whose output LayerScale multiplies can do it itself. A class token without a position
    has one of zeros.
    """
    weights = dict(weights)
    scales = [match for name in weights if (match := _LAYER_SCALE.fullmatch(name))]
    for match in scales:
        layer = f'{match[1]}.{_SCALED[match[2]]}'
        weight, bias = f'{layer}.weight', f'{layer}.bias'
        scale = weights[match[0]]
        if all(n in weights and weights[n].shape[:1] == scale.shape for n in (weight, bias)):
            weights[weight] = weights[weight] * scale[:, None]
            weights[bias] = weights[bias] * scale
            del weights[match[0]]
    position = weights['pos_embed']
    if scales and 'cls_token' in weights and position.ndim == 3:
        num_tokens = position.shape[1]
        if math.isqrt(num_tokens) ** 2 == num_tokens:
            weights['pos_embed'] = torch.cat([torch.zeros_like(position[:, :1]), position], 1)
    return weights


def _groups(names: Sequence[str]) -> str:
    """Names by the part that they belong to, with counts."""
    buffers = ('attn_mask', 'relative_position_index')
    parts = Counter(
        last if (last := name.split('.')[-1]) in buffers else name.split('.')[0] for name in names
    )
    return ', '.join(f'{part} ({n})' if n > 1 else part for part, n in parts.items()) or 'nothing'

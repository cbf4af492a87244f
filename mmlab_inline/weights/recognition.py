"""Which backbone a state dict belongs to, read from its names and shapes."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from ..backbones import inline_pvt, inline_swin
from ..backbones.base import DenseBackbone, resolve_attention
from ..utils import CheckpointError

_Weights = Mapping[str, Tensor]
_NUM_STAGES = 4


@dataclass(frozen=True)
class Recognised:
    """A backbone and the settings that its weights tell.

    The kernel function and the window of InLine attention leave no trace in the weights, nor does
    the number of heads of PVT's softmax attention (None in an arch given as a dict).

    Attributes:
        cls: The class.
        settings: Its keywords, except those at their default.
    """

    cls: type[DenseBackbone]
    settings: dict

    @property
    def name(self) -> str:
        """Such as ``'InLine-PVT-T'`` or ``'Swin-T'``, with what is not the arch's own."""
        arch = self.settings['arch']
        details = {key: value for key, value in self.settings.items() if key != 'arch'}
        name = self.cls.__name__.replace('InLine', 'InLine-')
        if details.get('attention') == 'softmax':
            name = name.removeprefix('InLine-')
            del details['attention']
        if isinstance(arch, str):
            name += f'-{arch[0].upper()}'
        else:
            details = {**arch, **details}
        text = ', '.join(f'{key}={value!r}' for key, value in details.items())
        return f'{name} with {text}' if text else name

    def build_empty(self) -> DenseBackbone:
        """The model on the meta device: names and shapes only.

        Raises:
            ValueError: No such model can be built.
        """
        arch = self.settings['arch']
        if not isinstance(arch, str):
            arch = {**arch, 'num_heads': tuple(heads or 1 for heads in arch['num_heads'])}
        with torch.device('meta'):
            return self.cls(**{**self.settings, 'arch': arch})


@dataclass(frozen=True)
class _Stage:
    """What the blocks of a stage tell.

    Attributes:
        dim: Channels.
        mixers: Token mixer of each block.
        num_heads: None if nothing tells.
        mlp_ratio: Hidden channels of the first block's MLP over ``dim``.
        softmax: Prefix of the first softmax attention's weights; None if all blocks are InLine.
    """

    dim: int
    mixers: tuple[str, ...]
    num_heads: int | None
    mlp_ratio: float
    softmax: str | None


def recognise(weights: _Weights) -> Recognised:
    """Read class and settings from a backbone's weights under the names here.

    Only what tells the settings is looked at; whether all of the weights fit is seen by comparing
    them with :meth:`Recognised.build_empty`.

    Raises:
        CheckpointError: They are of no backbone known here.
    """
    for read in (_read_pvt, _read_swin):
        try:
            return read(weights)
        except (KeyError, IndexError, ValueError, ZeroDivisionError):
            continue  # something that every member of the family has is absent or misshapen
    raise CheckpointError(
        'these are no weights of a model known here (InLine-PVT, InLine-Swin, PVT, Swin)'
    )


def _read_pvt(weights: _Weights) -> Recognised:
    numbers = range(1, _NUM_STAGES + 1)
    stages = [_read_stage(weights, f'block{number}.') for number in numbers]
    arch = dict(
        embed_dims=tuple(stage.dim for stage in stages),
        depths=tuple(len(stage.mixers) for stage in stages),
        num_heads=tuple(stage.num_heads for stage in stages),
        mlp_ratios=tuple(stage.mlp_ratio for stage in stages),
    )
    patch_size = inline_pvt.PATCH_SIZES[0]
    settings = dict(
        in_channels=weights['patch_embed1.proj.weight'].shape[1],
        pretrain_img_size=patch_size * math.isqrt(weights['pos_embed1'].shape[1]),
        sr_ratios=tuple(
            default if stage.softmax is None else _sr_ratio(weights, stage.softmax)
            for stage, default in zip(
                stages, _defaults(inline_pvt.InLinePVT)['sr_ratios'], strict=True
            )
        ),
    )
    return _simplest(inline_pvt, inline_pvt.InLinePVT, arch, stages, settings)


def _read_swin(weights: _Weights) -> Recognised:
    stages = [_read_stage(weights, f'layers.{index}.blocks.') for index in range(_NUM_STAGES)]
    ratios = tuple(stage.mlp_ratio for stage in stages)
    arch = dict(
        embed_dims=stages[0].dim,
        depths=tuple(len(stage.mixers) for stage in stages),
        num_heads=tuple(stage.num_heads for stage in stages),
        mlp_ratios=ratios[0] if len(set(ratios)) == 1 else ratios,
    )
    settings = dict(in_channels=weights['patch_embed.proj.weight'].shape[1])
    softmax = next((stage.softmax for stage in stages if stage.softmax), None)
    if softmax:
        table = weights[f'{softmax}relative_position_bias_table']
        settings['window_size'] = (math.isqrt(table.shape[0]) + 1) // 2
    return _simplest(inline_swin, inline_swin.InLineSwin, arch, stages, settings)


def _read_stage(weights: _Weights, prefix: str) -> _Stage:
    depth = len({name[len(prefix) :].split('.')[0] for name in weights if name.startswith(prefix)})
    hidden, dim = weights[f'{prefix}0.mlp.fc1.weight'].shape
    mixers, num_heads, softmax = [], None, None
    for index in range(depth):
        attention = f'{prefix}{index}.attn.'
        residual = weights.get(f'{attention}residual.0.weight')
        if residual is not None:
            num_heads = dim // residual.shape[1]  # a grouped convolution (C, C / heads, 1)
        else:
            softmax = softmax or attention
            table = weights.get(f'{attention}relative_position_bias_table')
            if table is not None:
                num_heads = table.shape[1]
        mixers.append('softmax' if residual is None else 'inline')
    ratio = hidden / dim
    return _Stage(
        dim, tuple(mixers), num_heads, int(ratio) if ratio.is_integer() else ratio, softmax
    )


def _sr_ratio(weights: _Weights, attention: str) -> int:
    convolution = weights.get(f'{attention}sr.weight')
    return 1 if convolution is None else convolution.shape[-1]


def _simplest(
    family: ModuleType, cls: type, arch: dict, stages: Sequence[_Stage], settings: dict
) -> Recognised:
    """The shortest settings of the same meaning: a name for the arch, and no defaults."""
    known = [name for name, own in family.ARCH_ZOO.items() if _agrees(arch, own)]
    settings['attention'] = _shortest([stage.mixers for stage in stages])
    own = family.ARCH_ZOO[known[0]].get('attention', 'inline') if known else 'inline'
    defaults = {
        **_defaults(cls),
        'attention': _shortest(resolve_attention(own, arch['depths'])),
    }
    return Recognised(
        cls,
        {
            'arch': known[0] if known else arch,
            **{key: value for key, value in settings.items() if value != defaults[key]},
        },
    )


def _agrees(arch: Mapping, other: Mapping) -> bool:
    """Whether two arches are the same as far as the first is known."""
    heads = zip(arch['num_heads'], other['num_heads'], strict=True)
    return all(found in (None, number) for found, number in heads) and all(
        arch[key] == other[key] for key in ('embed_dims', 'depths', 'mlp_ratios')
    )


def _shortest(stages: Sequence[tuple[str, ...]]) -> str | tuple:
    """Token mixers as the backbones take them: per block, per stage, or one for all."""
    per_stage = tuple(names[0] if len(set(names)) == 1 else names for names in stages)
    return per_stage[0] if len(set(per_stage)) == 1 and isinstance(per_stage[0], str) else per_stage


def _defaults(cls: type) -> dict:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

"""Which backbone a state dict belongs to, read from its names and shapes."""

import inspect
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType

import torch
from torch import Tensor

from ..backbones import inline_cswin, inline_deit, inline_pvt, inline_swin, l2vit
from ..backbones.base import DenseBackbone, pretrain_grids
from ..backbones.pretrained import below
from ..mixers import (
    CSWIN_ATTENTIONS,
    TOKEN_MIXERS,
    AttentionSpec,
    Site,
    as_options,
    list_attentions,
    mixer_class,
    resolve_attention,
    shortest_attention,
)
from ..utils import CheckpointError, one_of

_Weights = Mapping[str, Tensor]
_NUM_STAGES = 4
_USUAL_SIZE = 224  # of pretraining, where neither weights nor arch tell it
# Settings that options of attentions are taken from, and where those find them in their Site.
_FOLLOWED = {'pretrain_img_size': 'grid', 'window_size': 'window'}
_FAMILIES = {'vit': 'ViT', 'cswin': 'CSwin'}  # whose archs a class has beside its own


@dataclass(frozen=True)
class Recognised:
    """A backbone and the settings that its weights tell.

    The kernel function and the window of InLine attention leave no trace in the weights, nor does
    the number of heads of PVT's and ViT's softmax attention (None in an arch given as a dict), nor
    a linear attention that adds nothing to its projections: such a network has to be named.

    Attributes:
        cls: The class.
        settings: Its keywords, except those at their default.
        assumed: Options of its attentions that the weights do not tell, as they are taken.
    """

    cls: type[DenseBackbone]
    settings: dict
    assumed: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as ``'InLine-PVT-T'`` or ``'Swin-T'``, with what is not the arch's own."""
        arch = self.settings['arch']
        details = {key: value for key, value in self.settings.items() if key != 'arch'}
        name = self.cls.__name__.replace('InLine', 'InLine-')
        twin = name.removeprefix('InLine-')
        if details.get('attention') == 'softmax' and twin not in _FAMILIES.values():
            name = twin
            del details['attention']
        if isinstance(arch, str):
            family, _, size = arch.rpartition('-')
            name = f'{_FAMILIES.get(family, name)}-{size[0].upper()}'
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
            heads = ('num_heads', 'softmax_heads')
            # Of unknown ones the fewest: CSwin's stripes have half of them each.
            fewest = 2 if self.cls is inline_cswin.InLineCSwin else 1
            known = {k: tuple(n or fewest for n in arch[k]) for k in heads if k in arch}
            arch = {**arch, **known}
        with torch.device('meta'):
            return self.cls(**{**self.settings, 'arch': arch})


@dataclass
class _Attention:
    """What the weights of one attention tell.

    Attributes:
        path: Its prefix.
        stage: The stage, from 0.
        name: In the table of token mixers; None where the weights do not tell.
        found: What the mixer's own ``recognise`` reads in them.
    """

    path: str
    stage: int
    name: str | None
    found: dict


@dataclass(frozen=True)
class _Stage:
    """What the blocks of a stage tell.

    Attributes:
        dim: Channels.
        mlp_ratio: Hidden channels of the first block's MLP over ``dim``.
        attentions: Of the blocks.
    """

    dim: int
    mlp_ratio: float
    attentions: tuple[_Attention, ...]

    def heads(self, kind: str) -> int | None:
        """Number of heads of the attentions that take those of ``kind``; None if nothing tells."""
        found = (
            attention.found.get('num_heads')
            for attention in self.attentions
            if 'num_heads' in attention.found and TOKEN_MIXERS[attention.name].heads == kind
        )
        return next(filter(None, found), None)


def recognise(weights: _Weights, attention: AttentionSpec | None = None) -> Recognised:
    """Read class and settings from a backbone's weights under the names here.

    Only what tells the settings is looked at; whether all of the weights fit is seen by comparing
    them with :meth:`Recognised.build_empty`.

    Args:
        weights: Of a backbone.
        attention: As the backbones take it, where the weights do not tell.

    Raises:
        CheckpointError: They are of no backbone known here, or do not tell its attention.
    """
    for read in (_read_pvt, _read_swin, _read_l2vit, _read_deit, _read_cswin):
        try:
            return read(weights, attention)
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            if isinstance(error, CheckpointError):
                raise
            continue  # something that every member of the family has is absent or misshapen
    raise CheckpointError(
        'these are no weights of a model known here (InLine-PVT, InLine-Swin, InLine-CSwin, '
        'InLine-DeiT, L2ViT, PVT, Swin, CSwin, ViT)'
    )


def _read_pvt(weights: _Weights, attention: AttentionSpec | None) -> Recognised:
    stages = [_read_stage(weights, f'block{index + 1}.', index) for index in range(_NUM_STAGES)]
    defaults = _defaults(inline_pvt.InLinePVT)
    sr_ratios = tuple(
        next((a.found['sr_ratio'] for a in stage.attentions if 'sr_ratio' in a.found), default)
        for stage, default in zip(stages, defaults['sr_ratios'], strict=True)
    )
    everything = [a for stage in stages for a in stage.attentions]
    if any(a.name == 'spatial_reduction' for a in everything):
        # Where nothing is reduced, PVT's own attention has the names of any other.
        for a in everything:
            if a.name is None and sr_ratios[a.stage] == 1:
                a.name = 'spatial_reduction'
    arch = dict(
        embed_dims=tuple(stage.dim for stage in stages),
        depths=tuple(len(stage.attentions) for stage in stages),
        mlp_ratios=tuple(stage.mlp_ratio for stage in stages),
    )
    side = _side(weights['pos_embed1'].shape[1])
    settings = dict(
        in_channels=weights['patch_embed1.proj.weight'].shape[1],
        pretrain_img_size=inline_pvt.PATCH_SIZES[0] * side,
        sr_ratios=sr_ratios,
    )
    return _simplest(inline_pvt, inline_pvt.InLinePVT, arch, stages, settings, attention)


def _read_swin(weights: _Weights, attention: AttentionSpec | None) -> Recognised:
    stages = [_read_stage(weights, f'layers.{i}.blocks.', i) for i in range(_NUM_STAGES)]
    arch = dict(
        embed_dims=stages[0].dim,
        depths=tuple(len(stage.attentions) for stage in stages),
        mlp_ratios=_shortest([stage.mlp_ratio for stage in stages]),
    )
    settings = dict(
        in_channels=weights['patch_embed.proj.weight'].shape[1],
        window_size=_window_size(stages, attention),
        pretrain_img_size=_pretrain_size(stages, attention),
    )
    return _simplest(inline_swin, inline_swin.InLineSwin, arch, stages, settings, attention)


def _read_l2vit(weights: _Weights, attention: AttentionSpec | None) -> Recognised:
    stages = [_read_stage(weights, f'stages.{i}.', i) for i in range(_NUM_STAGES)]
    everything = [a for stage in stages for a in stage.attentions]
    if any(a.name == 'l2vit' for a in everything):
        # Its windows have the names of any attention.
        for a in everything:
            if a.name is None:
                a.name, a.found = 'window', dict(position_bias=False)
    depths = tuple(len(stage.attentions) for stage in stages)
    arch = dict(
        embed_dims=tuple(stage.dim for stage in stages),
        depths=depths,
        mlp_ratios=_shortest([stage.mlp_ratio for stage in stages]),
    )
    settings = dict(
        in_channels=weights['downsample_layers.0.proj.proj.0.weight'].shape[1],
        window_size=_window_size(stages, attention),
        pretrain_img_size=_pretrain_size(stages, attention),
    )
    usual = l2vit.attention_in_turn(depths)
    return _simplest(
        l2vit, l2vit.L2ViT, arch, stages, settings, attention, usual, position_bias=False
    )


def _read_deit(weights: _Weights, attention: AttentionSpec | None) -> Recognised:
    stage = _read_stage(weights, 'blocks.', 0)
    embedding = weights['patch_embed.proj.weight']
    size = inline_deit.PATCH_SIZE
    if embedding.shape[2:] != (size, size):
        found = 'x'.join(map(str, embedding.shape[2:]))
        raise CheckpointError(f'its patches are of {found} pixels, those here of {size}x{size}')
    if 'dist_token' in weights:
        raise CheckpointError('it has a distillation token, which no model known here has')
    cls_token = 'cls_token' in weights
    for found in stage.attentions:
        if cls_token and found.name is None:  # the only other one that takes a class token
            found.name = 'global'
    positions = weights['pos_embed'].shape[1]
    if cls_token and math.isqrt(positions) ** 2 == positions:
        raise CheckpointError(
            'its position embeddings are of a map that is not square, or have none for the class '
            'token'
        )
    arch = dict(
        embed_dims=(stage.dim,), depths=(len(stage.attentions),), mlp_ratios=(stage.mlp_ratio,)
    )
    settings = dict(
        in_channels=embedding.shape[1],
        pretrain_img_size=size * _side(positions - cls_token),
        cls_token=cls_token,
    )
    place = dict(sr_ratio=None, class_token=cls_token, stage=None)
    cls = inline_deit.InLineDeiT
    strides = (size,)
    return _simplest(inline_deit, cls, arch, [stage], settings, attention, strides=strides, **place)


def _read_cswin(weights: _Weights, attention: AttentionSpec | None) -> Recognised:
    stages = [
        _read_stage(weights, f'stage{i + 1}.', i, _read_cswin_attention) for i in range(_NUM_STAGES)
    ]
    arch = dict(
        embed_dims=stages[0].dim,
        depths=tuple(len(stage.attentions) for stage in stages),
        mlp_ratios=_shortest([stage.mlp_ratio for stage in stages]),
    )
    settings = dict(
        in_channels=weights['stage1_conv_embed.0.weight'].shape[1],
        pretrain_img_size=_pretrain_size(stages, attention),
    )
    own = dict(own=CSWIN_ATTENTIONS)
    cls = inline_cswin.InLineCSwin
    model = _simplest(inline_cswin, cls, arch, stages, settings, attention, **own)
    if any(a.name == 'softmax' for stage in stages for a in stage.attentions):
        stripes = f'stripes={inline_cswin.usual_stripes(_NUM_STAGES)}'
        model = replace(model, assumed=(*model.assumed, stripes))
    return model


def _read_cswin_attention(weights: _Weights, block: str, stage: int) -> _Attention:
    path = f'{block}attns.'
    if f'{path}0.get_v.weight' not in weights:
        other = _read_attention(weights, block, stage)
        # With projections of its own it is none of CSwin's: linear attention has the same names.
        return replace(other, name='linear') if other.name == 'inline' else other
    found = TOKEN_MIXERS['inline'].recognise(below(f'{path}0', weights))
    if found is not None:
        return _Attention(path, stage, 'inline', found)
    # Over the whole map InLine attention without a local residual has the names of softmax.
    if f'{path}1.get_v.weight' in weights or stage == _NUM_STAGES - 1:
        return _Attention(path, stage, 'softmax', dict(stripe_size=None))  # the stage's
    return _Attention(path, stage, None, {})


def _side(num_tokens: int) -> int:
    """Of a square map.

    Raises:
        CheckpointError: There is none of so many tokens.
    """
    side = math.isqrt(num_tokens)
    if side**2 != num_tokens:
        raise CheckpointError('its position embeddings are of a map that is not square')
    return side


def _shortest(ratios: Sequence[float]) -> float | tuple[float, ...]:
    """One number where all stages have the same."""
    return ratios[0] if len(set(ratios)) == 1 else tuple(ratios)


def _resolved(attention: AttentionSpec, depths: Sequence[int]) -> list[list[dict]]:
    """What the user says of the attention of every block, stage by stage.

    Raises:
        CheckpointError: It does not fit the blocks that there are, or has an unknown name.
    """
    try:
        chosen = [list(map(as_options, c)) for c in resolve_attention(attention, depths)]
        for options in chain(*chosen):
            one_of('attention', options['type'], list_attentions())
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    return chosen


def _with_options(
    stages: Sequence[_Stage], attention: AttentionSpec | None
) -> list[tuple[_Attention, dict]]:
    """Every attention with the options that the user says it has."""
    blocks = [a for stage in stages for a in stage.attentions]
    if attention is None:
        return [(a, {}) for a in blocks]
    chosen = _resolved(attention, [len(stage.attentions) for stage in stages])
    return list(zip(blocks, chain(*chosen), strict=True))


def _window_size(stages: Sequence[_Stage], attention: AttentionSpec | None) -> int | None:
    """Window of the first softmax attention that tells the network's; None if none does."""
    found = (
        a.found.get('window_size')
        for a, options in _with_options(stages, attention)
        if a.name == 'window' and 'window_size' not in options
    )
    return next(filter(None, found), None)


def _pretrain_size(
    stages: Sequence[_Stage], attention: AttentionSpec | None
) -> int | tuple[int, int] | None:
    """Image (H, W) in pixels, or its side, that tables are stored for; None if none tells.

    Raises:
        CheckpointError: They may as well be of windows.
    """
    grids = sorted(
        {
            (a.stage, a.found['grid'])
            for a, options in _with_options(stages, attention)
            if 'grid' in a.found and not options.get('window_size')  # else of windows
        }
    )
    if not grids:
        return None
    strides = [inline_swin.PATCH_SIZE * 2**stage for stage, _ in grids]
    tables = [grid for _, grid in grids]
    # The smallest that none is too large for: a remainder leaves no trace.
    size = tuple(max(map(operator.mul, sides, strides)) for sides in zip(*tables, strict=True))
    agree = tables == [tuple(side // stride for side in size) for stride in strides]
    square = all(height == width for height, width in tables)
    if agree and (attention is not None or len(grids) > 1 or not square or size[0] == _USUAL_SIZE):
        return size[0] if square else size
    sides = [height for height, _ in tables]
    usual = [_USUAL_SIZE // stride for stride in strides]
    windows = len(grids) > 1 and len(set(sides)) == 1
    # Beside tables of maps as they are by default, windows are not larger than these.
    beside = any(map(operator.eq, sides, usual)) and all(map(operator.le, sides, usual))
    if attention is None and not (square and (windows or beside)):
        found = ', of '.join(f'stage {stage + 1} are for {h}x{w} tokens' for stage, (h, w) in grids)
        raise CheckpointError(
            f'tables of {found}: maps of another size of pretraining, or windows; say so by the '
            "network's attention (--attention)"
        )
    return None


def _read_stage(
    weights: _Weights,
    prefix: str,
    stage: int,
    read: Callable[[_Weights, str, int], _Attention] | None = None,
) -> _Stage:
    read = read or _read_attention
    depth = len({name[len(prefix) :].split('.')[0] for name in weights if name.startswith(prefix)})
    hidden, dim = weights[f'{prefix}0.mlp.fc1.weight'].shape
    ratio = hidden / dim
    while int(dim * ratio) < hidden:  # as blocks make it of the ratio
        ratio = math.nextafter(ratio, math.inf)
    return _Stage(
        dim,
        int(ratio) if ratio.is_integer() else ratio,
        tuple(read(weights, f'{prefix}{i}.', stage) for i in range(depth)),
    )


def _read_attention(weights: _Weights, block: str, stage: int) -> _Attention:
    path = f'{block}attn.'
    own = below(path, weights)
    for name, cls in TOKEN_MIXERS.items():
        found = cls.recognise(own)
        if found is not None:
            if 'grid' in found and found['grid'] is None:
                raise CheckpointError(f'the tables below {path} are of a map that is not square')
            return _Attention(path, stage, name, found)
    return _Attention(path, stage, None, {})


def _choice(attention: _Attention, site: Site) -> str | dict:
    """One attention as the backbones take it, without what is so by default."""
    if attention.name is None:
        raise CheckpointError(
            f'the weights below {attention.path} do not tell which attention they are of; '
            "say so, as the network's config does (--attention NAME)"
        )
    cls = mixer_class(attention.name, site)
    options = {k: value for k, value in attention.found.items() if k in cls.options()}
    if attention.found.get('grid', site.grid) != site.grid or attention.found.get('windowed'):
        options['window_size'] = attention.found['grid'][0]
    usual = {**cls.options(), **cls.defaults(site)}
    options = {k: value for k, value in options.items() if value != usual[k]}
    name = 'softmax' if cls is mixer_class('softmax', site) else attention.name
    return dict(type=name, **options) if options else name


def _read_windows(attentions: Sequence[_Attention], sites: Sequence[Site]) -> set[tuple[int, int]]:
    """Tables of one size in several stages are of windows, also where the map has that size.

    Returns:
        The sizes that are taken for windows.
    """
    windows = set()
    for name in {a.name for a in attentions}:
        own = [a for a in attentions if a.name == name and 'grid' in a.found]
        off = {a.found['grid'] for a in own if a.found['grid'] != sites[a.stage].grid}
        for a in own:
            if a.found['grid'] in off:
                a.found['windowed'] = True
        windows |= off
    return windows


def _simplest(
    family: ModuleType,
    cls: type,
    arch: dict,
    stages: Sequence[_Stage],
    settings: dict,
    attention: AttentionSpec | None,
    usual: AttentionSpec = 'inline',
    strides: Sequence[int] = (4, 2, 2, 2),
    **place: object,
) -> Recognised:
    """The shortest settings of the same meaning: a name for the arch, and no defaults.

    Args:
        family: The class's module.
        cls: The class.
        arch: Settings that a name may stand for.
        stages: What their blocks tell.
        settings: Other keywords of the class.
        attention: What the user says of it.
        usual: What the class takes where neither its keyword nor the arch says it.
        strides: Of each stage over the one before.
        place: What else a :class:`.Site` there has.
    """
    heads, softmax_heads = (
        tuple(stage.heads(kind) for stage in stages) for kind in ('inline', 'softmax')
    )
    known = [
        name
        for name, own in family.ARCH_ZOO.items()
        if all(arch[key] == own[key] for key in arch)
        and _agrees(heads, own['num_heads'])
        and _agrees(softmax_heads, own.get('softmax_heads', own['num_heads']))
    ]
    arch['num_heads'] = tuple(map(_first, heads, softmax_heads))
    if not _agrees(softmax_heads, arch['num_heads']):
        arch['softmax_heads'] = tuple(map(_first, softmax_heads, heads))
    defaults = _defaults(cls)
    untold = [key for key in _FOLLOWED if settings.get(key, key) is None]
    for key in untold:
        settings[key] = defaults[key] or _USUAL_SIZE
    grids = pretrain_grids(settings['pretrain_img_size'], strides)
    sites = [
        Site(
            stages[index].dim,
            1,
            grid=grid,
            window=settings.get('window_size'),
            **({'sr_ratio': settings['sr_ratios'][index]} if 'sr_ratios' in settings else {}),
            **{'stage': index, **place},
        )
        for index, grid in enumerate(grids)
    ]
    windows = set()
    if attention is None:
        windows = _read_windows([a for stage in stages for a in stage.attentions], sites)
        attention = shortest_attention(
            [tuple(_choice(a, sites[a.stage]) for a in stage.attentions) for stage in stages]
        )
    settings['attention'] = attention
    chosen = _resolved(attention, arch['depths'])
    whole = resolve_attention(attention, arch['depths'])

    def own_attention(name: str) -> list[tuple]:
        return resolve_attention(family.ARCH_ZOO[name].get('attention', usual), arch['depths'])

    known.sort(key=lambda name: own_attention(name) != whole)  # of several, one with this attention
    followed = _followed(stages, sites, chosen, untold)
    if windows:  # which are told from maps by the size of these
        followed.add('pretrain_img_size')
    assumed = [
        *_assumed(stages, sites, chosen, arch, known),
        *(f'{key}={settings[key]!r}' for key in untold if key in followed),
        *(f'windows where tables are of {h}x{w} tokens' for h, w in sorted(windows)),
    ]
    usual = own_attention(known[0]) if known else resolve_attention(usual, arch['depths'])
    defaults['attention'] = shortest_attention(usual)
    if defaults['pretrain_img_size'] is None:
        own = family.ARCH_ZOO[known[0]] if known else {}
        defaults['pretrain_img_size'] = own.get('pretrain_img_size', _USUAL_SIZE)
    return Recognised(
        cls,
        {
            'arch': known[0] if known else arch,
            **{key: value for key, value in settings.items() if value != defaults[key]},
        },
        tuple(assumed),
    )


def _followed(
    stages: Sequence[_Stage],
    sites: Sequence[Site],
    chosen: Sequence[Sequence[dict]],
    untold: Iterable[str],
) -> set[str]:
    """Of settings that nothing tells, those that options of a given attention are taken from."""
    found = set()
    for stage, site, choices in zip(stages, sites, chosen, strict=True):
        for read, options in zip(stage.attentions, choices, strict=True):
            if read.name is not None or options.get('window_size'):
                continue
            cls = mixer_class(options['type'], site)
            usual = cls.defaults(site)
            for key in untold:
                without = cls.defaults(replace(site, **{_FOLLOWED[key]: None}))
                if any(k not in options and v != without.get(k) for k, v in usual.items()):
                    found.add(key)
    return found


def _assumed(
    stages: Sequence[_Stage],
    sites: Sequence[Site],
    chosen: Sequence[Sequence[dict]],
    arch: Mapping,
    known: Sequence[str],
) -> Iterator[str]:
    """What is taken for granted, a phrase an attention."""
    rests = {}
    for stage, site, choices in zip(stages, sites, chosen, strict=True):
        for read, options in zip(stage.attentions, choices, strict=True):
            if read.name is not None:
                cls = mixer_class(read.name, site)
                usual = {**cls.options(), **cls.defaults(site)}
                told = {*options, *read.found}
                rests[read.name] = {k: v for k, v in usual.items() if k not in told}
    for name, rest in rests.items():
        # An architecture's own attention has names of its own.
        others = {} if name in sites[0].own else TOKEN_MIXERS
        alike = [
            f'or {other}'
            for other, cls in others.items()
            if name in cls.looks_like
            and (not sites[0].class_token or 'class_token' in inspect.signature(cls).parameters)
        ]
        options = ', '.join(f'{key}={value!r}' for key, value in rest.items())
        if alike or options:
            yield f'{" ".join([name, *alike])} with {options}'
    if len(known) > 1:
        yield f'arch {known[0]}; weights of {" and ".join(known[1:])} look the same'
    if not known and None in (*arch['num_heads'], *arch.get('softmax_heads', ())):
        yield 'num_heads, which are to be filled in'


def _agrees(found: Sequence[int | None], known: Sequence[int | None]) -> bool:
    return all(number in (None, other) for number, other in zip(found, known, strict=True))


def _first(number: int | None, other: int | None) -> int | None:
    return other if number is None else number


def _defaults(cls: type) -> dict:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}

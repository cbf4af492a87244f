"""From the name of an attention, or a dict of its options, to the module."""

import inspect
from collections.abc import Mapping, Sequence

from torch import nn

from ..layers import init_linear_and_norm
from ..utils import check_flag, did_you_mean, one_of, whole_pair
from .base import PLACE, TOKEN_MIXERS, Site, TokenMixer

Choice = str | Mapping[str, object]
"""One attention: ``'agent'`` or ``dict(type='agent', agent_num=49)``."""
AttentionSpec = Choice | Sequence[Choice | Sequence[Choice]]
"""One attention for a whole network, one per stage, or within a stage one per block."""

_SHORT_FOR = {'self_adjust': dict(type='softmax', self_adjust=True)}


def list_attentions() -> list[str]:
    """Names that ``attention=`` and :func:`build_attention` take.

    ``'softmax'`` is the architecture's own: ``'spatial_reduction'`` in PVT, ``'window'`` in Swin
    and, without position bias, in L2ViT, ``'global'`` in DeiT, stripes in CSwin, which have no
    name elsewhere; ``'self_adjust'`` is that with ``self_adjust=True``.
    """
    return sorted([*TOKEN_MIXERS, 'softmax', *_SHORT_FOR])


def build_attention(
    attention: Choice,
    dim: int,
    num_heads: int,
    *,
    qkv: str = 'separate',
    grid: tuple[int, int] | None = None,
    shift: bool = False,
    **options: object,
) -> TokenMixer:
    """An attention for any model, by name.

    Args:
        attention: A name out of :func:`list_attentions`, or a dict with it as ``type``.
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` projections ``q`` and ``kv``, or ``'joint'``, one ``qkv``, where an
            attention has the choice.
        grid: Map size (H, W) in tokens that the model is trained on, for attentions that store
            tables; they are resized to any other.
        shift: Roll the map by half a window first; only with ``window_size``.
        options: Of this attention (see docs/attentions.md); every one but
            ``'spatial_reduction'``, which is ``'softmax'`` here, takes ``window_size``.

    Returns:
        A module with ``forward(x, hw_shape)``: tokens (B, N, C) of an (H, W) map to (B, N, C).

    Raises:
        ValueError: Unknown name or option, or numbers that do not fit together.

    Examples:
        >>> attention = build_attention('agent', 64, 2, grid=(56, 56), agent_num=9)
        >>> attention(torch.rand(1, 30 * 40, 64), (30, 40)).shape
        torch.Size([1, 1200, 64])
    """
    one_of('qkv', qkv, ('separate', 'joint'))
    check_flag(shift=shift)
    choice = {**as_options(attention), **options}
    site = Site(dim, num_heads, qkv=qkv, grid=whole_pair('grid', grid), shift=shift)
    mixer = build_token_mixer(choice, site)
    if shift and mixer.window_size is None:
        raise ValueError('shift=True moves windows: give window_size, too')
    initialise(mixer)
    return mixer


def build_token_mixer(choice: Choice, site: Site) -> TokenMixer:
    """Build what was chosen for a place.

    Raises:
        ValueError: Unknown name or option; the message has the nearest and lists them. Or there is
            a class token, which this attention does not take.
    """
    options = as_options(choice)
    name = options.pop('type')
    cls = mixer_class(name, site)
    check_options(name, cls, options)
    taken = inspect.signature(cls).parameters
    if site.class_token and 'class_token' not in taken:
        raise ValueError(
            f'attention {name!r} is of maps and takes no class token; '
            "give the backbone cls_token=False, or choose 'inline' or 'softmax'"
        )
    place = {key: getattr(site, key) for key in PLACE & taken.keys()}
    if cls.heads == 'softmax' and site.softmax_heads:
        place['num_heads'] = site.softmax_heads
    return cls(**{**place, **cls.defaults(site), **options})


def mixer_class(name: str, site: Site) -> type[TokenMixer]:
    """The class behind a name.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
    """
    if name in site.own:
        return site.own[name]
    if name == 'softmax':
        whole = 'global' if site.sr_ratio is None else 'spatial_reduction'
        name = 'window' if site.window else whole
    return TOKEN_MIXERS.get(name) or TOKEN_MIXERS[one_of('attention', name, list_attentions())]


def check_options(name: str, cls: type[TokenMixer], options: Mapping[str, object]) -> None:
    """Refuse options that an attention does not take.

    Raises:
        ValueError: One is unknown; the message has the nearest and lists all.
    """
    known = cls.options()
    for key in options:
        if key not in known:
            raise ValueError(
                f'attention {name!r} has no option {key!r}{did_you_mean(key, known)}; '
                f'it takes {", ".join(known)}'
            )


def as_options(choice: Choice) -> dict[str, object]:
    """A choice as a dict with ``type``.

    Raises:
        ValueError: It is neither a name nor a dict with one.
    """
    if isinstance(choice, str):
        choice = {'type': choice}
    if not isinstance(choice, Mapping):
        raise ValueError(f'attention {choice!r} is neither a name nor a dict')
    if not isinstance(choice.get('type'), str):
        raise ValueError(f"attention {dict(choice)!r} lacks its name, as in dict(type='inline')")
    # mmengine leaves the scope of a base config in its dicts.
    options = {key: value for key, value in choice.items() if key != '_scope_'}
    short_for = _SHORT_FOR.get(options['type'])
    return options if short_for is None else {**short_for, **options, 'type': short_for['type']}


def resolve_attention(attention: AttentionSpec, depths: Sequence[int]) -> list[tuple[Choice, ...]]:
    """The attention of every block, stage by stage.

    Args:
        attention: One for all, one per stage, or for a mixed stage one per block; lists and tuples
            mean the same.
        depths: Blocks per stage.

    Raises:
        ValueError: The number of stages or blocks does not fit.
    """
    if _is_one(attention):
        attention = (attention,) * len(depths)
    if not _is_several(attention):
        raise ValueError(
            f'attention={attention!r} is neither a name, a dict nor one of them a stage'
        )
    if len(attention) != len(depths):
        raise ValueError(f'attention has {len(attention)} stages, depths has {len(depths)}')
    stages = []
    for stage, (choices, depth) in enumerate(zip(attention, depths, strict=True)):
        choices = (choices,) * depth if _is_one(choices) else choices
        if not (_is_several(choices) and all(map(_is_one, choices))):
            raise ValueError(f'attention[{stage}]={choices!r} is neither one nor one a block')
        if len(choices) != depth:
            raise ValueError(
                f'attention[{stage}] names {len(choices)} blocks, the stage has {depth}'
            )
        stages.append(tuple(choices))
    return stages


def shortest_attention(stages: Sequence[Sequence[Choice]]) -> AttentionSpec:
    """The inverse of :func:`resolve_attention`: per block, per stage, or one for all."""
    per_stage = tuple(
        choices[0] if all(choice == choices[0] for choice in choices) else tuple(choices)
        for choices in stages
    )
    one = _is_one(per_stage[0]) and all(choice == per_stage[0] for choice in per_stage)
    return per_stage[0] if one else per_stage


def _is_one(attention: AttentionSpec) -> bool:
    return isinstance(attention, str | Mapping)


def _is_several(attention: object) -> bool:
    return isinstance(attention, Sequence) and not isinstance(attention, str)


def initialise(module: nn.Module) -> None:
    """Random weights: linear layers and norms as the architectures have them, mixers their own."""
    module.apply(init_linear_and_norm)
    for part in module.modules():
        if isinstance(part, TokenMixer):
            part.initialise()

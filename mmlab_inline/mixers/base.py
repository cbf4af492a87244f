"""What every token mixer is, and the table of them by name."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from ..ops import apply_in_windows, window_shift
from ..utils import check_whole, one_of, whole_pair
from .weights import ClassTokenWeights, Weights, windowed_weights

TOKEN_MIXERS: dict[str, type['TokenMixer']] = {}
"""Token mixers by name; :func:`token_mixer` adds one."""


def token_mixer(name: str) -> Callable[[type], type]:
    """Class decorator: enter a :class:`TokenMixer` in the table.

    Raises:
        ValueError: The name is taken.
    """

    def enter(cls: type['TokenMixer']) -> type['TokenMixer']:
        if name in TOKEN_MIXERS:
            raise ValueError(f'attention {name!r} is {TOKEN_MIXERS[name].__name__} already')
        TOKEN_MIXERS[name] = cls
        return cls

    return enter


@dataclass(frozen=True)
class Site:
    """What a backbone knows of a block.

    Attributes:
        dim: Channels C.
        num_heads: Number of heads.
        softmax_heads: Number of heads that softmax attention has in the same architecture.
        qkv: ``'separate'`` (PVT) or ``'joint'`` (Swin) projections.
        grid: Map size (H, W) in tokens at the size of pretraining, for which tables are stored.
        shift: Whether a windowed mixer shifts its windows (odd blocks).
        sr_ratio: Spatial reduction of the architecture's softmax attention; None where that is
            ``'global'``.
        window: Window of the architecture's softmax attention; None where it has none.
        position_bias: Whether that attention has a table of relative positions.
        stripe: Width of the stripes of the architecture's softmax attention; None: the whole map.
        stage: The stage, from 0; None in a plain network and outside a backbone.
        class_token: Whether a token of no place comes before those of the map.
        own: Classes that names stand for in this architecture alone.
    """

    dim: int
    num_heads: int
    softmax_heads: int | None = None
    qkv: str = 'separate'
    grid: tuple[int, int] | None = None
    shift: bool = False
    sr_ratio: int | None = 1
    window: int | None = None
    position_bias: bool = True
    stripe: int | None = None
    stage: int | None = None
    class_token: bool = False
    own: Mapping[str, type['TokenMixer']] = field(default_factory=dict)


class TokenMixer(nn.Module):
    """Tokens of a map to tokens of the same shape, projections included; no skip, no norm.

    A subclass writes :meth:`mix`, and names in its constructor what it needs of its place (out of
    :data:`PLACE`) and, with defaults, its options. All else is done for it from
    what it declares: choice by name, windows, costs, weight decay, recognition, documentation.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        grid: Map size (H, W) in tokens that tables are stored for; the window's where there is one.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first (unmasked: a linear form cannot mask pairs).

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or a number is not positive.
    """

    paper: ClassVar[str] = ''
    """Where it comes from, for tables."""
    heads: ClassVar[str] = 'inline'
    """``'softmax'`` for the number of heads that softmax attention has in the same architecture."""
    linear: ClassVar[bool] = True
    """Whether its cost grows with the number of tokens, and not faster."""
    looks_like: ClassVar[tuple[str, ...]] = ()
    """Attentions for which its weights may be taken, because the parameters have the same names."""
    no_decay: ClassVar[tuple[str, ...]] = ()
    """Parameters that take no weight decay."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        grid: tuple[int, int] | None = None,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__()
        check_whole(dim=dim, num_heads=num_heads, window_size=window_size)
        grid = whole_pair('grid', grid)
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide dim={dim}')
        self.dim = dim
        self.num_heads = num_heads
        self.grid = grid if window_size is None else (window_size, window_size)
        self.window_size = window_size
        self.shift = shift
        self.class_token = False

    def take_class_token(self, class_token: bool) -> None:
        """Say whether a token of no place comes before those of the map, N == 1 + H * W.

        Constructors with a ``class_token`` call it, no others have to do with one.

        Raises:
            ValueError: There is one, and windows, which have no place for it.
        """
        if class_token and self.window_size is not None:
            raise ValueError(
                f'window_size={self.window_size}: windows have no place for a class token; '
                'give the backbone cls_token=False'
            )
        self.class_token = class_token

    @classmethod
    def options(cls) -> dict[str, object]:
        """Options with their defaults: what the constructor takes beyond its place."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in PLACE}

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        """Defaults of options that depend on the place."""
        return {}

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        """What the weights of one attention tell of it.

        Args:
            weights: By their names in the module.

        Returns:
            Options, ``num_heads`` among them where they tell it; None if they are not of this
            mixer, or do not tell it from others.
        """
        return None

    def initialise(self) -> None:
        """Random values of linear layers that have others than the architectures' own."""

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend over a whole map, or over windows as if each were one.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens, H * W == N.

        Returns:
            (B, N, C).
        """
        raise NotImplementedError

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights | None:
        """The weights by which :meth:`mix` attends, with the same arguments, for looking at.

        Returns:
            None if there are none: the output is no weighed sum of values.
        """
        return None

    def weights(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights | None:
        """The weights by which :meth:`forward` attends, over the map also where it has windows.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens.

        Returns:
            None where it has none. A class token is the last key, and no query.
        """
        if self.class_token:
            inner = self.weigh(x, hw_shape)
            return inner and ClassTokenWeights(inner)
        if self.window_size is None:
            return self.weigh(x, hw_shape)
        shift = window_shift(hw_shape, self.window_size) if self.shift else (0, 0)
        return windowed_weights(
            lambda fn, x: apply_in_windows(fn, x, hw_shape, self.window_size, shift),
            x,
            lambda windows: self.weigh_windows(windows, hw_shape, shift),
        )

    def weigh_windows(
        self, windows: Tensor, hw_shape: tuple[int, int], shift: tuple[int, int]
    ) -> Weights | None:
        """:meth:`weigh` each window (B * windows, window_size ** 2, C) of a map cut so."""
        return self.weigh(windows, (self.window_size, self.window_size))

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend over a map.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens.

        Returns:
            (B, N, C).

        Raises:
            ValueError: H * W is not N.
        """
        height, width = hw_shape
        if int(self.class_token) + height * width != x.shape[1]:
            beside = ' and a class token' * self.class_token
            raise ValueError(
                f'hw_shape={tuple(hw_shape)}{beside} does not hold {x.shape[1]} tokens'
            )
        if self.window_size is None:
            return self.mix(x, (height, width))
        return self.mix_windows(x, (height, width))

    def mix_windows(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Cut a map into windows, shift them if asked to, and attend within each.

        Args:
            x: Tokens (B, N, C).
            hw_shape: Map size (H, W) in tokens, H * W == N.

        Returns:
            (B, N, C).
        """
        window_shape = (self.window_size, self.window_size)
        return apply_in_windows(
            lambda windows: self.mix(windows, window_shape),
            x,
            hw_shape,
            self.window_size,
            window_shift(hw_shape, self.window_size) if self.shift else (0, 0),
        )

    def table_shape(self) -> tuple[int, int]:
        """The map size (H, W) that tables are stored for.

        Raises:
            ValueError: Neither ``grid`` nor ``window_size`` was given.
        """
        if self.grid is None:
            raise ValueError(
                f'{type(self).__name__} stores tables: give grid=(H, W), '
                'the size in tokens of the map that it is trained on'
            )
        return self.grid


class QKVMixer(TokenMixer):
    """A token mixer with projections to queries, keys and values, and of the output.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` projections ``q`` and ``kv`` (as in PVT) or ``'joint'``, one ``qkv``
            (as in Swin).
        grid: As in :class:`TokenMixer`, like the other two.
        window_size: See there.
        shift: See there.
    """

    reduction = 1
    """C over the channels of queries, keys and values."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        *,
        grid: tuple[int, int] | None = None,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, grid=grid, window_size=window_size, shift=shift)
        inner = dim // self.reduction
        if one_of('qkv', qkv, ('separate', 'joint')) == 'joint':
            self.qkv = nn.Linear(dim, 3 * inner)
        else:
            self.q = nn.Linear(dim, inner)
            self.kv = nn.Linear(dim, 2 * inner)
        self.proj = nn.Linear(inner, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens (B, N, C), each (B, N, C / reduction)."""
        if hasattr(self, 'qkv'):
            return self.qkv(x).chunk(3, 2)
        return self.q(x), *self.kv(x).chunk(2, 2)

    def projections(self) -> tuple[nn.Linear, ...]:
        """The layers before attention, in the order of :meth:`project`."""
        return (self.qkv,) if hasattr(self, 'qkv') else (self.q, self.kv)


def check_head_width(dim: int, num_heads: int, multiple: int) -> None:
    """Refuse heads whose width is no multiple of a number.

    Raises:
        ValueError: It is not.
    """
    if dim % (multiple * num_heads):
        raise ValueError(
            f'dim={dim} must be a multiple of {multiple} * num_heads = {multiple * num_heads}'
        )


PLACE = frozenset({'dim', 'num_heads', 'qkv', 'grid', 'shift', 'stage', 'class_token'})
"""Keywords of a constructor that a backbone gives, not its user."""

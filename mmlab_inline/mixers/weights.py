"""What queries weigh values by, for looking at and measuring: no mixer computes by it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import EPSILON, bidirectional_scan

# Numbers that a step over queries holds at most.
_MOST = 2**24


@dataclass
class Weights(ABC):
    """The weights of a mixer for given tokens; never more of them at once than are asked for.

    Args:
        values: What is weighed (B, heads, M, width).
        finish: From attended values (B, heads, N, width) to the output of the mixer (B, N, C): all
            that comes behind the weights, the local part included.
        local: Kernels (B or 1, heads or 1, width or 1, k, k) of a convolution of the values that
            ``finish`` adds to what is attended; None: there is none.
        key_shape: Map size (H, W) of keys and values where it is not the queries'.
    """

    values: Tensor
    finish: Callable[[Tensor], Tensor]
    local: Tensor | None = None
    key_shape: tuple[int, int] | None = None

    @abstractmethod
    def rows(self, queries: Tensor) -> Tensor:
        """Weights (B, heads, Q, M) of queries (Q,)."""

    @abstractmethod
    def attend(self, values: Tensor) -> Tensor:
        """Values (B, heads, M, any width) weighed by every query (B, heads, N, any width)."""

    @abstractmethod
    def pairs(self, keys: Tensor) -> Tensor:
        """Weights (B, heads, N, K) of some keys (B or 1, N, K) for every query."""

    def attended(self) -> Tensor:
        """The values weighed by every query (B, heads, N, width), as ``finish`` takes them."""
        return self.attend(self.values)

    def sums(self) -> Tensor:
        """Sums of all rows (B, heads, N, 1)."""
        return self.attend(torch.ones_like(self.values[..., :1]))

    def reaches(self, keys: Tensor) -> Tensor:
        """Whether queries may weigh keys (N, K) at all: (heads or 1, N, K)."""
        return torch.ones_like(keys, dtype=torch.bool)[None]

    def local_at(self, queries: Tensor) -> Tensor | None:
        """Kernels of the local part (B or 1, heads or 1, Q or 1, width or 1, k, k)."""
        return None if self.local is None else self.local[:, :, None]


@dataclass(kw_only=True)
class FactoredWeights(Weights):
    """``q_i.k_j + shift_i``, and ``own_i`` more for the token itself: the linear forms.

    Args:
        q: (B, heads, N, rank).
        k: (B, heads, M, rank).
        shift: (B, heads, N, 1), or a number.
        own: Likewise.
    """

    q: Tensor
    k: Tensor
    shift: Tensor | float = 0.0
    own: Tensor | float = 0.0

    def __post_init__(self) -> None:
        column = self.q.new_zeros(*self.q.shape[:-1], 1)
        self.shift, self.own = column + self.shift, column + self.own

    def rows(self, queries: Tensor) -> Tensor:
        rows = self.q[:, :, queries] @ self.k.mT + self.shift[:, :, queries]
        index = queries[:, None].expand(*rows.shape[:2], -1, 1)
        return rows.scatter_add(-1, index, self.own[:, :, queries])

    def attend(self, values: Tensor) -> Tensor:
        out = self.q @ (self.k.mT @ values) + self.shift * values.sum(-2, keepdim=True)
        return out + self.own * values

    def pairs(self, keys: Tensor) -> Tensor:
        # One key after the other: of all at once the features would be too many numbers.
        products = [
            (self.q * _gather(self.k, some)[..., 0, :]).sum(-1) for some in keys.split(1, -1)
        ]
        themselves = keys == torch.arange(keys.shape[1], device=keys.device)[:, None]
        return torch.stack(products, -1) + self.shift + self.own * themselves[:, None]


@dataclass(kw_only=True)
class RowWeights(Weights):
    """Weights that are had a row at a time: softmax and what is like it.

    Args:
        row_of: From queries (Q,) to their weights (B, heads, Q, M).
        num_queries: N.
    """

    row_of: Callable[[Tensor], Tensor]
    num_queries: int

    def rows(self, queries: Tensor) -> Tensor:
        return self.row_of(queries)

    def attend(self, values: Tensor) -> Tensor:
        return torch.cat([self.row_of(some) @ values for some in self._chunks()], -2)

    def pairs(self, keys: Tensor) -> Tensor:
        batch, heads = self.values.shape[:2]
        return torch.cat(
            [
                self.row_of(some).gather(-1, keys[:, None, some].expand(batch, heads, -1, -1))
                for some in self._chunks()
            ],
            -2,
        )

    def _chunks(self) -> tuple[Tensor, ...]:
        size = max(1, _MOST // self.values[..., 0].numel())
        return torch.arange(self.num_queries, device=self.values.device).split(size)


@dataclass(kw_only=True)
class GatedWeights(Weights):
    """Of :func:`.bidirectional_scan`: ``q_i.k_j`` times what the gates between i and j let pass.

    Args:
        q: (B, heads, N, width), in float32 or float64 like all others.
        k: Likewise.
        log_decays: Forward and backward, of the same shape.
    """

    q: Tensor
    k: Tensor
    log_decays: tuple[Tensor, Tensor]

    def rows(self, queries: Tensor) -> Tensor:
        since = self._since()
        places = torch.arange(self.k.shape[2], device=self.k.device)
        rows = []
        for query in queries:
            row = 0
            for times, side in zip(since, (places <= query, places >= query), strict=True):
                passed = _passed(times[:, :, query, None], times)
                row = row + (self.q[:, :, query, None] * self.k * passed).sum(-1) * side
            rows.append(row / 2)
        return torch.stack(rows, 2).to(self.q.dtype)

    def attend(self, values: Tensor) -> Tensor:
        return bidirectional_scan(self.q, self.k, values, self.log_decays)

    def pairs(self, keys: Tensor) -> Tensor:
        places = torch.arange(keys.shape[1], device=keys.device)[:, None]
        total = 0
        for times, side in zip(self._since(), (keys <= places, keys >= places), strict=True):
            passed = _passed(times[..., None, :], _gather(times, keys))
            part = (self.q[..., None, :] * _gather(self.k, keys) * passed).sum(-1)
            total = total + part * side[:, None]
        return (total / 2).to(self.q.dtype)

    def _since(self) -> tuple[Tensor, Tensor]:
        """Logarithms of decays summed up to each token, from the first on and from the last."""
        # Clamped as the scan does; in float64, because differences of running sums count.
        there, back = (decay.double().clamp(min=-5) for decay in self.log_decays)
        return there.cumsum(-2), back.flip(-2).cumsum(-2).flip(-2)


class WindowedWeights(Weights):
    """Weights within windows as weights over the map: 0 between windows.

    What lies beyond the map is padding: it has weights, but no place in a row. It counts in
    :meth:`attended` and :meth:`sums`, which are the mixer's, and not in :meth:`attend`.

    Args:
        inner: Of all windows, (B * windows, ...).
        tokens: Where each token of the map is (N,): its window times the tokens of one, plus its
            place there.
    """

    def __init__(self, inner: Weights, tokens: Tensor) -> None:
        self.inner, self.tokens, self.area = inner, tokens, inner.values.shape[2]
        self.window, self.place = tokens // self.area, tokens % self.area
        self.count = int(self.window.max()) + 1
        super().__init__(self._on_map(inner.values), self._finish)

    def rows(self, queries: Tensor) -> Tensor:
        places, index = self.place[queries].unique(return_inverse=True)
        rows = self.inner.rows(places).unflatten(0, (-1, self.count))
        rows = rows[:, self.window[queries], :, index].permute(1, 2, 0, 3)
        return rows[..., self.place] * (self.window[queries][:, None] == self.window)

    def attend(self, values: Tensor) -> Tensor:
        inside = self._in_windows(values, values.new_zeros(*self.inner.values.shape[:3], 1))
        return self._on_map(self.inner.attend(inside))

    def attended(self) -> Tensor:
        return self._on_map(self.inner.attended())

    def sums(self) -> Tensor:
        return self._on_map(self.inner.sums())

    def pairs(self, keys: Tensor) -> Tensor:
        together = self._together(keys)
        inside = keys.new_zeros(len(keys), self.count * self.area, keys.shape[2])
        inside[:, self.tokens] = self.place[keys] * together
        inside = inside.unflatten(1, (self.count, self.area)).flatten(0, 1)
        batch = len(self.inner.values) // self.count
        pairs = self.inner.pairs(inside.repeat(batch // len(keys), 1, 1))
        return self._on_map(pairs) * together[:, None]

    def reaches(self, keys: Tensor) -> Tensor:
        return self._together(keys)[None]

    def local_at(self, queries: Tensor) -> Tensor | None:
        if self.inner.local is None:
            return None
        kernels = self.inner.local
        if len(kernels) == 1:
            return kernels[:, :, None]
        return kernels.unflatten(0, (-1, self.count))[:, self.window[queries]].transpose(1, 2)

    def _together(self, keys: Tensor) -> Tensor:
        """Whether keys (..., N, K) are in the window of their query."""
        return self.window[keys] == self.window[:, None]

    def _finish(self, attended: Tensor) -> Tensor:
        inside = self._in_windows(attended, self.inner.attended())
        return self._on_map(self.inner.finish(inside)[:, None])[:, 0]

    def _on_map(self, x: Tensor) -> Tensor:
        """(B * windows, heads, area, width) to (B, heads, N, width)."""
        x = x.unflatten(0, (-1, self.count)).transpose(1, 2).flatten(2, 3)
        return x[:, :, self.tokens]

    def _in_windows(self, x: Tensor, padding: Tensor) -> Tensor:
        """The way back, with what stands beyond the map."""
        batch, heads, _, width = x.shape
        out = padding.unflatten(0, (batch, self.count)).transpose(1, 2).flatten(2, 3)
        out = out.expand(batch, heads, -1, width).clone()
        out[:, :, self.tokens] = x
        return out.unflatten(2, (self.count, self.area)).transpose(1, 2).flatten(0, 1)


class HeadGroupWeights(Weights):
    """Weights of groups of heads, each of its own kind.

    Args:
        groups: In the order of the heads; ``finish`` of each gives its channels.
        proj: The output projection, of all channels.
    """

    def __init__(self, groups: Sequence[Weights], proj: Callable[[Tensor], Tensor]) -> None:
        self.groups, self.proj = groups, proj
        super().__init__(torch.cat([group.values for group in groups], 1), self._finish)

    def rows(self, queries: Tensor) -> Tensor:
        return torch.cat([group.rows(queries) for group in self.groups], 1)

    def attend(self, values: Tensor) -> Tensor:
        parts = self._split(values)
        pairs = zip(self.groups, parts, strict=True)
        return torch.cat([group.attend(part) for group, part in pairs], 1)

    def attended(self) -> Tensor:
        return torch.cat([group.attended() for group in self.groups], 1)

    def sums(self) -> Tensor:
        return torch.cat([group.sums() for group in self.groups], 1)

    def pairs(self, keys: Tensor) -> Tensor:
        return torch.cat([group.pairs(keys) for group in self.groups], 1)

    def reaches(self, keys: Tensor) -> Tensor:
        parts = zip(self.groups, self._split(self.values), strict=True)
        reached = [group.reaches(keys).expand(part.shape[1], -1, -1) for group, part in parts]
        return torch.cat(reached)

    def local_at(self, queries: Tensor) -> Tensor:
        return torch.cat([group.local_at(queries) for group in self.groups], 1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split([group.values.shape[1] for group in self.groups], 1)

    def _finish(self, attended: Tensor) -> Tensor:
        pairs = zip(self.groups, self._split(attended), strict=True)
        return self.proj(torch.cat([group.finish(part) for group, part in pairs], -1))


class ClassTokenWeights(Weights):
    """Weights of the map's tokens on each other, and last on the class token.

    Args:
        inner: Of all tokens, the class token first.
    """

    def __init__(self, inner: Weights) -> None:
        self.inner = inner
        super().__init__(inner.values.roll(-1, 2), self._finish, inner.local)

    def rows(self, queries: Tensor) -> Tensor:
        return self.inner.rows(queries + 1).roll(-1, -1)

    def attend(self, values: Tensor) -> Tensor:
        return self.inner.attend(values.roll(1, 2))[:, :, 1:]

    def pairs(self, keys: Tensor) -> Tensor:
        keys = (keys + 1) % self.values.shape[2]
        return self.inner.pairs(F.pad(keys, (0, 0, 1, 0)))[:, :, 1:]

    def _finish(self, attended: Tensor) -> Tensor:
        own = self.inner.attended()[:, :, :1]
        return self.inner.finish(torch.cat([own, attended], 2))


def windowed_weights(
    apply: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
    x: Tensor,
    weigh: Callable[[Tensor], Weights | None],
) -> WindowedWeights | None:
    """The weights of a mixer that cuts its map; None if it has none.

    Args:
        apply: Cuts its second argument, applies the first to all windows, and puts them together.
        x: What it cuts (B, ..., C).
        weigh: From the windows (B * windows, ..., C) to their weights.
    """
    cut = []

    def keep(windows: Tensor) -> Tensor:
        cut.append(windows)
        return windows

    def number(windows: Tensor) -> Tensor:
        return torch.arange(windows.numel(), device=x.device).view(windows.shape)

    apply(keep, x)
    # Each place of the windows by its number, brought to the token that stands there.
    tokens = apply(number, x[:1, ..., :1]).flatten()
    inner = weigh(cut[0])
    return inner and WindowedWeights(inner, tokens)


def divisive_weights(
    q: Tensor, k: Tensor, values: Tensor, epsilon: float = EPSILON, **settings: object
) -> FactoredWeights:
    """Those of :func:`.normalised_attention`."""
    q = q / ((q * k.mean(-2, keepdim=True)).sum(-1, keepdim=True) + epsilon)
    return FactoredWeights(values, **settings, q=q, k=k / k.shape[-2])


def softmax_weights(
    attend: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    values: Tensor,
    bias: Tensor | None = None,
    **settings: object,
) -> RowWeights:
    """Those that an attention gives, such as :func:`.softmax_attention` with these arguments."""
    places = torch.eye(k.shape[2], dtype=k.dtype, device=k.device).expand(*k.shape[:2], -1, -1)

    def row_of(queries: Tensor) -> Tensor:
        some = None if bias is None else bias[..., queries, :]
        return attend(q[:, :, queries], k, places, some)

    return RowWeights(values, **settings, row_of=row_of, num_queries=q.shape[2])


def _gather(x: Tensor, keys: Tensor) -> Tensor:
    """Of (B, heads, M, width) what stands at keys (B or 1, N, K): (B, heads, N, K, width)."""
    if len(keys) == 1:
        return x[:, :, keys[0]]
    return torch.stack([one[:, own] for one, own in zip(x, keys, strict=True)])


def _passed(later: Tensor, earlier: Tensor) -> Tensor:
    """What is left of a state after the decays between two tokens."""
    return (later - earlier).clamp(max=0).exp()

"""Gated linear recurrences over tokens, in chunks instead of one token after the other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .exporting import is_exporting
from .inline_attention import without_autocast

_CHUNK = 32  # tokens: exponents reach half as many times the floor below, within float32
_GROUP = 64  # chunks
_FLOOR = -5.0  # of the logarithm of a decay: what is forgotten faster is forgotten anyway


def bidirectional_scan(
    q: Tensor, k: Tensor, v: Tensor, log_decays: tuple[Tensor, Tensor]
) -> Tensor:
    """Mean of :func:`gated_scan` from the first token on and from the last one back.

    Args:
        q: Queries (B, heads, N, width).
        k: Keys (B, heads, N, width).
        v: Values (B, heads, N, value_width).
        log_decays: Forward and backward, each as in :func:`gated_scan`.

    Returns:
        (B, heads, N, value_width) in float32 or float64; a token itself counts in both directions.
    """
    forward, backward = log_decays
    accurate = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q):
        q, k, v, log_decay = (
            torch.stack([t, u.flip(-2)]).to(accurate)
            for t, u in ((q, q), (k, k), (v, v), (forward, backward))
        )
        there, back = gated_scan(q, k, v, log_decay)
        return (there + back.flip(-2)) / 2


def gated_scan(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """``o_i = q_i S_i`` with ``S_i = diag(decay_i) S_(i-1) + k_i^T v_i``.

    Within a chunk of tokens as products of pairs, between chunks by the states at their ends,
    likewise within a group of 2048 tokens and between groups: no loop over any of them.

    Args:
        q: Queries (..., N, width), in float32 or float64 like all others.
        k: Keys (..., N, width).
        v: Values (..., N, value_width).
        log_decay: Logarithm of the decays (..., N, width), not positive; below -5 it is -5, where
            0.7% of a state are left after one token.

    Returns:
        (..., N, value_width).
    """
    length = q.shape[-2]
    count = length // _CHUNK + 1  # never without padding, on which an export would branch
    q, k, v, log_decay = (
        _cut(t, count, _CHUNK) for t in (q, k, v, log_decay.clamp(min=_FLOOR))
    )  # (..., count, _CHUNK, width)
    since_start = log_decay.cumsum(-2)
    whole = since_start[..., -1:, :]
    # Both factors of a decay between two tokens are of the middle of the chunk, or one overflows.
    middle = since_start[..., _CHUNK // 2 : _CHUNK // 2 + 1, :]
    pairs = (q * (since_start - middle).exp()) @ (k * (middle - since_start).exp()).mT
    later = torch.ones(_CHUNK, _CHUNK, dtype=torch.bool, device=q.device).triu(1)
    within = pairs.masked_fill(later, 0) @ v
    states = (k * (whole - since_start).exp()).mT @ v
    before = states_before(states, whole.squeeze(-2))
    out = within + (q * since_start.exp()) @ before
    return out.flatten(-3, -2)[..., :length, :]


def states_before(states: Tensor, log_decay: Tensor) -> Tensor:
    """What is left of all earlier chunks where one begins.

    Args:
        states: What each chunk adds (..., count, width, value_width).
        log_decay: What each leaves of the state before it (..., count, width), as logarithm.

    Returns:
        Of the shape of ``states``.
    """
    if states.is_meta:
        return states  # a recurrence has no products to count
    count = states.shape[-3]
    # Of an export the number is not known.
    if not is_exporting() and count <= _GROUP:
        return _sums_before(states, log_decay)
    groups = count // _GROUP + 1
    states = _cut(states.flatten(-2), groups, _GROUP).unflatten(-1, states.shape[-2:])
    log_decay = _cut(log_decay, groups, _GROUP)
    inside = _sums_before(states, log_decay)
    last = (..., -1, slice(None), slice(None))
    added = inside[last] * log_decay[..., -1, :, None].exp() + states[last]
    outside = _sums_before(added, log_decay.sum(-2))
    since_start = log_decay.cumsum(-2) - log_decay
    inside = inside + since_start.exp()[..., None] * outside[..., None, :, :]
    return inside.flatten(-4, -3)[..., :count, :, :]


def _sums_before(states: Tensor, log_decay: Tensor) -> Tensor:
    """:func:`states_before` by all pairs of chunks."""
    count = log_decay.shape[-2]
    decay = log_decay.mT  # (..., width, count)
    # From chunk c on (columns) the decays of c + 1 .. r - 1 act before chunk r (rows): sums of what
    # is there, where differences of running sums would cancel.
    steps = decay[..., :, None].expand(*decay.shape, count)
    earlier = torch.ones(count, count, dtype=torch.bool, device=decay.device).tril(-1)
    between = F.pad(steps.masked_fill(~earlier, 0).cumsum(-2)[..., :-1, :], (0, 0, 1, 0))
    weights = between.masked_fill(~earlier, -torch.inf).exp()
    return (weights @ states.transpose(-3, -2)).transpose(-3, -2)


def _cut(x: Tensor, count: int, size: int) -> Tensor:
    """(..., N, C) as (..., count, size, C), zeros added at the end."""
    x = F.pad(x, (0, 0, 0, count * size - x.shape[-2]))
    return x.unflatten(-2, (count, size))

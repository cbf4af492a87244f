"""Manhattan self-attention (RMT, CVPR 2024, arXiv 2309.11523)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import merge_heads, softmax_attention, split_heads
from ..utils import check_flag, check_positive
from .base import Site, TokenMixer, check_head_width, token_mixer
from .mlla import turn_pairs
from .weights import RowWeights, Weights, softmax_weights


@token_mixer('rmt')
class RMTAttention(TokenMixer):
    """Softmax attention whose scores fall with the distance in rows plus that in columns.

    Head i of h adds ``distance * log(1 - 2 ** -(decay_start + decay_span * i / h))`` to its scores.
    Queries and keys are rotated by their place in row-major order, so that the same two pixels
    relate differently on a wider map; the published weights need it so. A 5x5 convolution of the
    values is added.

    Not linear: the decomposed form grows with ``N (H + W)``, the full one with ``N ** 2``.

    Args:
        dim: Channels C, a multiple of ``2 * num_heads``.
        num_heads: Number of heads.
        decomposed: Attend along rows, then along columns, instead of over all pairs. In a backbone
            True before the fourth stage.
        decay_start: Of the first head.
        decay_span: Over the heads. In a backbone of stages 4, 4, and 6 from the third on.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``2 * num_heads`` does not divide ``dim``, or a decay is not positive.
    """

    paper = 'RMT, CVPR 2024'
    linear = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        decomposed: bool = True,
        decay_start: float = 2,
        decay_span: float = 4,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        check_head_width(dim, num_heads, 2)
        check_flag(decomposed=decomposed)
        check_positive(decay_start=decay_start, decay_span=decay_span)
        self.decomposed = decomposed
        self.decay_start = decay_start
        self.decay_span = decay_span
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(dim, dim) for _ in range(4)
        )
        self.lepe = nn.ModuleDict(dict(conv=nn.Conv2d(dim, dim, 5, padding=2, groups=dim)))

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        if site.stage is None:
            return {}
        return dict(decomposed=site.stage < 3, decay_span=(4, 4, 6, 6)[min(site.stage, 3)])

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q, k, v, local, rows, columns = self._parts(x, hw_shape)
        if self.decomposed:
            q, k, v = (t.unflatten(2, hw_shape) for t in (q, k, v))
            v = _attend_rows(q, k, v, columns)
            q, k, v = (t.transpose(2, 3) for t in (q, k, v))
            out = _attend_rows(q, k, v, rows).transpose(2, 3).flatten(2, 3)
        else:
            out = softmax_attention(q, k, v, _decay_of_pairs(rows, columns).to(q.dtype))
        return self.out_proj(merge_heads(out) + local)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v, local, rows, columns = self._parts(x, hw_shape)
        settings = dict(
            finish=lambda out: self.out_proj(merge_heads(out) + local),
            local=self.lepe.conv.weight.view(1, self.num_heads, -1, 5, 5),
        )
        if not self.decomposed:
            decay = _decay_of_pairs(rows, columns).to(q.dtype)
            return softmax_weights(softmax_attention, q, k, v, decay, **settings)
        q, k = (t.unflatten(2, hw_shape) * t.shape[-1] ** -0.25 for t in (q, k))
        along = (q @ k.mT + columns[:, None]).softmax(-1)  # (B, heads, H, W, W)
        q, k = (t.transpose(2, 3) for t in (q, k))
        across = (q @ k.mT + rows[:, None]).softmax(-1)  # (B, heads, W, H, H)

        def row_of(queries: Tensor) -> Tensor:
            row, column = queries // hw_shape[1], queries % hw_shape[1]
            # Down the query's column, and from there along each row.
            down = across[:, :, column, row][..., None]  # (B, heads, Q, H, 1)
            return (down * along[:, :, :, column].transpose(2, 3)).flatten(3)

        return RowWeights(v, **settings, row_of=row_of, num_queries=x.shape[1])

    def _parts(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """Queries, keys, values in heads, the local part, and decays along both axes."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        local = convolve_tokens(self.lepe.conv, v, hw_shape)
        q, k, v = (split_heads(t, self.num_heads) for t in (q, k, v))
        accurate = torch.promote_types(x.dtype, torch.float32)
        angle = self._angles(x.shape[1], q.shape[-1] // 2, x.device, accurate)
        q, k = (turn_pairs(t.to(accurate), angle).to(v.dtype) for t in (q, k))
        rows, columns = (self._decay(side, x.device, accurate) for side in hw_shape)
        return q, k, v, local, rows, columns

    def _angles(
        self, num_tokens: int, pairs: int, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        """(N, pairs), from 1 to 1/10000 a token."""
        power = torch.arange(pairs, device=device, dtype=dtype) / max(pairs - 1, 1)
        return torch.arange(num_tokens, device=device, dtype=dtype)[:, None] * 10000.0**-power

    def _decay(self, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """What is added to the scores along one axis (heads, side, side)."""
        head = torch.arange(self.num_heads, device=device, dtype=dtype)[:, None, None]
        power = self.decay_start + self.decay_span * head / self.num_heads
        place = torch.arange(side, device=device, dtype=dtype)
        return (place[:, None] - place).abs() * torch.log1p(-(2.0**-power))

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        return {} if 'lepe.conv.weight' in weights else None


def _decay_of_pairs(rows: Tensor, columns: Tensor) -> Tensor:
    """What is added to the scores of all pairs (1, heads, N, N)."""
    decay = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    return decay.flatten(3).flatten(1, 2)[None]


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Attention among the tokens of a row, all (B, heads, H, W, head_dim)."""
    lines = (t.transpose(1, 2).flatten(0, 1) for t in (q, k, v))
    out = softmax_attention(*lines, decay[None].to(q.dtype))
    return out.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)

"""Softmax attention in shifted windows (Swin Transformer, arXiv 2103.14030)."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..layers import trunc_normal_
from ..ops import (
    apply_in_windows,
    may_shift,
    merge_heads,
    relative_position_index,
    self_adjusted_attention,
    shift_mask,
    softmax_attention,
    split_heads,
    window_shift,
)
from ..utils import check_flag
from .base import QKVMixer, Site, token_mixer
from .weights import Weights, softmax_weights


@token_mixer('window')
class WindowAttention(QKVMixer):
    """Window attention, as Swin's with relative position bias; cuts and shifts the windows itself.

    Maps are padded to a multiple of the window. A shifted block does not shift along an axis on
    which the map is a single window.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        window_size: Side of a window in tokens.
        shift: Shift by half a window (odd blocks).
        self_adjust: Weigh each key by its place between the smallest and the largest score, too.
        position_bias: Learn a bias for each offset between two tokens of a window.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or a number is not positive.
    """

    paper = 'Swin, ICCV 2021'
    heads = 'softmax'
    no_decay = ('relative_position_bias_table',)

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shift: bool = False,
        self_adjust: bool = False,
        position_bias: bool = True,
    ) -> None:
        if window_size is None:
            raise ValueError("window_size=None: 'window' needs one; 'global' is of the whole map")
        super().__init__(dim, num_heads, 'joint', window_size=window_size, shift=shift)
        check_flag(self_adjust=self_adjust, position_bias=position_bias)
        self.self_adjust, self.position_bias = self_adjust, position_bias
        if position_bias:
            self.relative_position_bias_table = nn.Parameter(
                torch.zeros((2 * window_size - 1) ** 2, num_heads)
            )
            trunc_normal_(self.relative_position_bias_table, std=0.02)
            self.register_buffer(
                'relative_position_index', relative_position_index(window_size), persistent=False
            )
        else:
            self.no_decay = ()

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        window = {} if site.window is None else dict(window_size=site.window)
        return dict(window, position_bias=site.position_bias)

    def mix_windows(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        # Unlike a linear form, softmax can keep apart what a shift brings together.
        shift = window_shift(hw_shape, self.window_size) if self.shift else (0, 0)
        mask = shift_mask(hw_shape, self.window_size, shift, x.device) if may_shift(shift) else None
        return apply_in_windows(
            lambda windows: self._attend(windows, mask), x, hw_shape, self.window_size, shift
        )

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        # Each (B * windows, heads, area, head_dim).
        q, k, v, bias = self._heads(x)
        area = self.window_size**2
        if mask is not None:
            # Windows of one sample stand beside its heads, so that one mask serves every sample.
            bias = bias.masked_fill(mask[:, None], -torch.inf).flatten(0, 1)[None]
            q, k, v = (t.reshape(-1, bias.shape[1], area, t.shape[-1]) for t in (q, k, v))
        out = self._attention(q, k, v, bias)
        return self._finish(out.reshape(-1, self.num_heads, area, out.shape[-1]))

    def weigh_windows(
        self, windows: Tensor, hw_shape: tuple[int, int], shift: tuple[int, int]
    ) -> Weights:
        q, k, v, bias = self._heads(windows)
        if may_shift(shift):
            mask = shift_mask(hw_shape, self.window_size, shift, windows.device)[:, None]
            bias = bias.masked_fill(mask, -torch.inf).repeat(len(q) // len(mask), 1, 1, 1)
        return softmax_weights(self._attention, q, k, v, bias, finish=self._finish)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        q, k, v = (split_heads(t, self.num_heads) for t in self.project(x))
        return q, k, v, self._bias(q)

    @property
    def _attention(self) -> Callable[..., Tensor]:
        return self_adjusted_attention if self.self_adjust else softmax_attention

    def _finish(self, out: Tensor) -> Tensor:
        return self.proj(merge_heads(out))

    def _bias(self, q: Tensor) -> Tensor | None:
        """What is added to the scores of any window, (1, heads, area, area); None for nothing."""
        if self.position_bias:
            bias = self.relative_position_bias_table[self.relative_position_index]
            return bias.permute(2, 0, 1).to(q.dtype)[None]
        if self.shift:  # which a mask goes on top of
            return q.new_zeros(1, self.num_heads, self.window_size**2, self.window_size**2)
        return None

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        table = weights.get('relative_position_bias_table')
        if table is None:
            return None
        side = (math.isqrt(table.shape[0]) + 1) // 2
        return dict(num_heads=table.shape[1], window_size=side, position_bias=True)

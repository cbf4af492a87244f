"""Softmax attention of all tokens to all (An Image is Worth 16x16 Words, arXiv 2010.11929)."""

from collections.abc import Callable

from torch import Tensor

from ..ops import merge_heads, self_adjusted_attention, softmax_attention, split_heads
from ..utils import check_flag
from .base import QKVMixer, token_mixer
from .weights import Weights, softmax_weights


@token_mixer('global')
class GlobalAttention(QKVMixer):
    """Multi-head softmax attention over the whole map: quadratic in the number of tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        self_adjust: Weigh each key by its place between the smallest and the largest score, too.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first (unmasked).
        class_token: A token of no place comes before those of the map.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, a number is not positive, or windows
            and a class token.
    """

    paper = 'ViT, ICLR 2021'
    heads = 'softmax'
    linear = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        self_adjust: bool = False,
        window_size: int | None = None,
        shift: bool = False,
        class_token: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        self.take_class_token(class_token)
        check_flag(self_adjust=self_adjust)
        self.self_adjust = self_adjust

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self._finish(self._attend(*self._heads(x)))

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        return softmax_weights(self._attend, *self._heads(x), finish=self._finish)

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(split_heads(t, self.num_heads) for t in self.project(x))

    @property
    def _attend(self) -> Callable[..., Tensor]:
        return self_adjusted_attention if self.self_adjust else softmax_attention

    def _finish(self, out: Tensor) -> Tensor:
        return self.proj(merge_heads(out))

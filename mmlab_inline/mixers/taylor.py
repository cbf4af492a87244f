"""Linear Taylor attention (ViTALiTy, HPCA 2023, arXiv 2211.05109)."""

from collections.abc import Mapping

from torch import Tensor

from .base import token_mixer
from .inline import InLineAttention


@token_mixer('taylor')
class TaylorAttention(InLineAttention):
    """Softmax to first order around centred keys, ``(1 + s q_i.(k_j - mean k)) / N``.

    This is InLine attention with the identity kernel and without its local residual. The sparse
    branch that the authors add in training is left out.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'ViTALiTy, HPCA 2023'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(
            dim, num_heads, qkv, window_size=window_size, shift=shift, local_residual=False
        )

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        return None

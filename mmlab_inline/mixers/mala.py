"""Magnitude-aware linear attention (MALA, ICCV 2025)."""

from torch import Tensor

from ..ops import EPSILON
from .base import token_mixer
from .rala import RALAAttention


@token_mixer('mala')
class MALAAttention(RALAAttention):
    """InLine's subtraction with a gain by the size of the query, in the block of RALA.

    Query i weighs key j by ``((1 + 1 / z_i) s q_i.k_j - z_i) / N`` with
    ``z_i = s q_i.mean_t k_t`` of ``elu + 1`` features: without rotation rows sum to 1, and this is
    ``mean v + gain s q_i Cov(K, V)``, where gain is 1 in InLine and 1 / z where one divides.

    Args:
        dim: Channels C, a multiple of ``4 * num_heads`` if ``rotary``.
        num_heads: Number of heads.
        rotary: Rotate queries and keys by row and column in the product, but not in z.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.
    """

    paper = 'MALA, ICCV 2025'

    def attend(self, q: Tensor, k: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        k_mean = k.mean(-2, keepdim=True)
        z = (q * k_mean).sum(-1, keepdim=True)
        gain = 1 / (z + EPSILON)
        size = self.size_of(k_mean)
        q, k = self.turn(q, k, hw_shape)
        turned = (q * k.mean(-2, keepdim=True)).sum(-1, keepdim=True)
        # Of centred values: what is left is 1 without rotation, instead of a difference of sums.
        v_mean = v.mean(-2, keepdim=True, dtype=q.dtype)
        scale = k.shape[-2] ** -0.5  # of keys and values: together 1 / N
        context = (scale / size * k).to(v.dtype).mT @ (scale * (v - v_mean.to(v.dtype)))
        out = ((1 + gain) * size * q).to(v.dtype) @ context
        return out + (v_mean * (turned - z + gain * turned)).to(v.dtype)

    def factors(self, q: Tensor, k: Tensor, hw_shape: tuple[int, int]) -> dict[str, Tensor]:
        q, num_tokens = q * q.shape[-1] ** -0.5, k.shape[-2]
        z = (q * k.mean(-2, keepdim=True)).sum(-1, keepdim=True)
        q, k = self.turn(q, k, hw_shape)
        return dict(q=(1 + 1 / (z + EPSILON)) * q, k=k / num_tokens, shift=-z / num_tokens)

"""The token mixer of MLLA (Demystify Mamba in Vision, NeurIPS 2024, arXiv 2405.16605)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import EPSILON, POSITIVE_KERNELS, TINY, merge_heads, split_heads
from .base import TokenMixer, token_mixer
from .weights import FactoredWeights, Weights


@token_mixer('mlla')
class MLLAAttention(TokenMixer):
    """Gated linear attention of a convolved map: rotary positions, values without a projection.

    ``y = out_proj(attention(u) * silu(act_proj x))`` with ``u = silu(conv3x3(in_proj x))``. Queries
    and keys are ``elu + 1``, rotated by row and column in the product but not in the normaliser;
    the values are ``u`` itself, and a 3x3 convolution of them is added.

    Args:
        dim: Channels C, a multiple of 4.
        num_heads: Number of heads; divides ``dim``.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``dim`` is no multiple of 4.
    """

    paper = 'MLLA, NeurIPS 2024'

    def __init__(
        self, dim: int, num_heads: int, window_size: int | None = None, shift: bool = False
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        if dim % 4:
            raise ValueError(f'dim={dim} must be a multiple of 4')
        self.in_proj, self.act_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn = nn.ModuleDict(
            dict(qk=nn.Linear(dim, 2 * dim), lepe=nn.Conv2d(dim, dim, 3, padding=1, groups=dim))
        )

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        v, q, k, norm, size = self._features(x, hw_shape)
        values = split_heads(v, self.num_heads)
        scale = x.shape[1] ** -0.5  # of keys and values: together 1 / N
        context = (scale * (k / size)).to(v.dtype).transpose(-2, -1) @ (scale * values)
        return self._finish((q * (size / norm)).to(v.dtype) @ context, x, v, hw_shape)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        v, q, k, norm, _ = self._features(x, hw_shape)
        return FactoredWeights(
            split_heads(v, self.num_heads),
            lambda out: self._finish(out, x, v, hw_shape),
            self.attn.lepe.weight.view(1, self.num_heads, -1, 3, 3),
            q=q / norm,
            k=k / x.shape[1],
        )

    def _features(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """Values (B, N, C), in heads rotated queries and keys, what divides, :func:`pair_size`."""
        v = F.silu(convolve_tokens(self.dwc, self.in_proj(x), hw_shape))
        elu = POSITIVE_KERNELS['elu']
        accurate = torch.promote_types(x.dtype, torch.float32)
        q, k = (elu(t.to(accurate)) for t in self.attn.qk(v).chunk(2, 2))
        quarter = self.dim // 4
        rate = 10000.0 ** (-torch.arange(quarter, device=x.device, dtype=accurate) / quarter)
        q_turned, k_turned = (
            split_heads(t, self.num_heads) for t in rotate(torch.stack([q, k]), hw_shape, rate)
        )
        k_mean = k.mean(-2, keepdim=True)
        size = split_heads(pair_size(k_mean), self.num_heads)
        q, k_mean = (split_heads(t, self.num_heads) for t in (q, k_mean))
        norm = (q * k_mean).sum(-1, keepdim=True) + EPSILON
        return v, q_turned, k_turned, norm, size

    def _finish(self, out: Tensor, x: Tensor, v: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        out = merge_heads(out) + convolve_tokens(self.attn.lepe, v, hw_shape)
        return self.out_proj(out * F.silu(self.act_proj(x)))

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        return {} if 'attn.qk.weight' in weights else None


def rotate(x: Tensor, hw_shape: tuple[int, int], rate: Tensor) -> Tensor:
    """Rotate pairs of channels: the first half by the row, the second by the column.

    Args:
        x: (..., N, C), in at least float32.
        hw_shape: Map size (H, W) in tokens.
        rate: By how much the pairs of either half turn a token (C / 4,). Positions are whole:
            nothing is rescaled on a bigger map.

    Returns:
        (..., N, C).
    """
    height, width = hw_shape
    quarter = len(rate)
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in (height, width))
    angle = torch.cat(
        [
            (rows[:, None, None] * rate).expand(height, width, quarter),
            (columns[None, :, None] * rate).expand(height, width, quarter),
        ],
        dim=-1,
    ).flatten(0, 1)
    return turn_pairs(x, angle)


def pair_size(k_mean: Tensor) -> Tensor:
    """What keys are divided and queries multiplied by, so that no half type over- or underflows.

    Channels differ by orders of magnitude; only the two of a pair are mixed by the rotation.

    Args:
        k_mean: Mean key (..., C), not negative.

    Returns:
        The larger of each pair (..., C).
    """
    pairs = k_mean.detach().unflatten(-1, (-1, 2))
    return pairs.amax(-1, keepdim=True).expand_as(pairs).flatten(-2).clamp(min=TINY)


def turn_pairs(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate pairs of channels (2a, 2a + 1) of (..., N, C) by angles (N, C / 2)."""
    cos, sin = angle.cos(), angle.sin()
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2)

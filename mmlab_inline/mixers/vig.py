"""Bidirectional gated linear attention (ViG, AAAI 2025, arXiv 2405.18425)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import bidirectional_scan, split_heads
from ..utils import check_flag
from .base import TokenMixer, check_head_width, token_mixer
from .weights import GatedWeights, Weights


@token_mixer('vig')
class ViGAttention(TokenMixer):
    """A recurrence over the tokens in row-major order, there and back, with gates of its own each.

    ``S_i = diag(alpha_i) S_(i-1) + k_i^T v_i`` and ``o_i = q_i S_i``, normalised per head and gated
    against the tokens themselves. A vertical neighbour is W tokens away, so that what lies above is
    forgotten sooner on a wider map.

    Args:
        dim: Channels C, a multiple of ``2 * num_heads``: queries and keys have half of them.
        num_heads: Number of heads.
        activation: SiLU after the convolution of the input.
        out_activation: SiLU before the output projection.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``2 * num_heads`` does not divide ``dim``.
    """

    paper = 'ViG, AAAI 2025'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        activation: bool = False,
        out_activation: bool = False,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        check_head_width(dim, num_heads, 2)
        check_flag(activation=activation, out_activation=out_activation)
        convolution = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        nn.init.xavier_uniform_(convolution.weight, gain=2**-2.5)
        self.in_proj = nn.Sequential(convolution, *([nn.SiLU()] if activation else []))
        self.qkv_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.gk_proj = nn.Sequential(nn.Linear(dim, 16, bias=False), nn.Linear(16, dim))
        self.g_proj = nn.Linear(dim, dim)
        self.g_norm, self.l_norm = (HeadNorm(dim // num_heads) for _ in range(2))
        self.o_proj = nn.Linear(dim, dim, bias=False)
        self.out_activation = out_activation

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        x, q, k, v, decays = self._features(x, hw_shape)
        return self._finish(q.shape[-1] ** -0.5 * bidirectional_scan(q, k, v, decays), x)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        x, q, k, v, decays = self._features(x, hw_shape)
        scale = q.shape[-1] ** -0.5
        return GatedWeights(
            v, lambda out: self._finish(out, x), q=scale * q, k=k, log_decays=decays
        )

    def _features(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple:
        """The convolved tokens; queries, keys, values and both decays in heads."""
        x = convolve_tokens(self.in_proj, x, hw_shape)
        half = self.dim // 2
        q, k, v = self.qkv_proj(x).split((half, half, self.dim), 2)
        gates = self.gk_proj(x).chunk(2, 2)
        q, k, v, *gates = (split_heads(t, self.num_heads) for t in (q, k, v, *gates))
        return x, q, k, v, tuple(log_decay(gate) for gate in gates)

    def _finish(self, out: Tensor, x: Tensor) -> Tensor:
        tokens = x.unflatten(2, (self.num_heads, -1))
        gate = self.g_proj(x).sigmoid().view_as(tokens)
        out = gate * self.g_norm(out.transpose(1, 2)) + (1 - gate) * self.l_norm(tokens)
        out = out.flatten(2).to(x.dtype)
        return self.o_proj(F.silu(out) if self.out_activation else out)

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        if not {'gk_proj.1.weight', 'g_norm.weight'} <= weights.keys():
            return None
        dim = weights['gk_proj.1.weight'].shape[0]
        return dict(num_heads=dim // weights['g_norm.weight'].shape[0])


class HeadNorm(nn.Module):
    """RMSNorm over the last dimension, in at least float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


def log_decay(logits: Tensor) -> Tensor:
    """Logarithm of ``sigmoid(logits) ** (1 / 16)``, in at least float32."""
    return F.logsigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32))) / 16

"""MetaLA (NeurIPS 2024, arXiv 2411.10741) over maps."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import bidirectional_scan, merge_heads, split_heads
from .base import TokenMixer, check_head_width, token_mixer
from .vig import log_decay
from .weights import GatedWeights, Weights


@token_mixer('metala')
class MetaLAAttention(TokenMixer):
    """A gated recurrence whose keys are what its gates leave open, ``k = 1 - alpha``.

    Weights per channel sum to less than one, whatever the number of tokens. The authors' layer is
    causal and for language; from there are the gates, the augmentation of a token by itself, the
    norm and the output gate. The 3x3 convolution and the second direction, with the same gates, are
    ours. As in ``vig`` the order is row-major.

    Args:
        dim: Channels C, a multiple of ``2 * num_heads``: queries and keys have half of them.
        num_heads: Number of heads.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``2 * num_heads`` does not divide ``dim``.
    """

    paper = 'MetaLA, NeurIPS 2024'

    def __init__(
        self, dim: int, num_heads: int, window_size: int | None = None, shift: bool = False
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        check_head_width(dim, num_heads, 2)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
        self.q_proj, self.k_gate = (nn.Linear(dim, dim // 2, bias=False) for _ in range(2))
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.g_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.aug_balance = nn.Parameter(torch.zeros(dim // 2))

    def initialise(self) -> None:
        for layer in (self.q_proj, self.k_gate):
            nn.init.xavier_uniform_(layer.weight, gain=2**-2.5)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        x, q, k, v, gate = self._features(x, hw_shape)
        out = q.shape[-1] ** -0.5 * bidirectional_scan(q, k, v, (gate, gate))
        return self._finish(out, x, q, k, v)

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        x, q, k, v, gate = self._features(x, hw_shape)
        return GatedWeights(
            v,
            lambda out: self._finish(out, x, q, k, v),
            q=q.shape[-1] ** -0.5 * q,
            k=k,
            log_decays=(gate, gate),
        )

    def _features(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, ...]:
        """The convolved tokens; queries, keys, values and decays in heads."""
        x = F.silu(convolve_tokens(self.dwc, x, hw_shape))
        layers = self.q_proj, self.k_gate, self.v_proj
        q, gate, v = (split_heads(layer(x), self.num_heads) for layer in layers)
        gate = log_decay(gate)
        k = -gate.expm1()  # 1 - alpha, also where alpha is next to 1
        return x, q, k, v, gate

    def _finish(self, out: Tensor, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        balance = self.aug_balance.unflatten(0, (self.num_heads, 1, -1))
        out = out + ((q * balance * k).sum(-1, keepdim=True) * v).sigmoid()
        out = merge_heads(F.layer_norm(out, out.shape[-1:])).to(x.dtype)
        return self.out_proj(F.silu(self.g_proj(x)) * out)

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        return {} if 'aug_balance' in weights else None

"""Divisive linear attention, the baseline of InLine's paper (arXiv 2412.06590, eq. 2)."""

from torch import Tensor

from ..layers import LocalKernels
from ..ops import (
    POSITIVE_KERNELS,
    channel_weights,
    dynamic_depthwise3x3,
    kernel_attention,
    merge_heads,
    positive_features,
    split_heads,
    token_mean,
)
from ..utils import check_flag, one_of
from .base import QKVMixer, token_mixer
from .context import attend_by_context
from .weights import Weights, divisive_weights


@token_mixer('linear')
class LinearAttention(QKVMixer):
    """``a_ij = phi(q_i).phi(k_j) / sum_t phi(q_i).phi(k_t)``, linear in the number of tokens.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` or ``'joint'`` projections.
        kernel: Kernel function on queries and keys: ``'relu'``, ``'elu'`` (elu + 1) or ``'exp'``
            (of 0.2 x).
        local_residual: Add InLine's predicted 3x3 convolution of the values.
        window_size: Attend within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: A kernel with negative values, whose sum over keys may be zero, or an unknown.
    """

    paper = 'InLine, NeurIPS 2024 (its baseline)'

    looks_like = ('inline', 'spatial_reduction')

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        kernel: str = 'relu',
        local_residual: bool = False,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv, window_size=window_size, shift=shift)
        if kernel in ('identity', 'leakyrelu'):
            raise ValueError(
                f'kernel {kernel!r} has negative values, by whose sum nothing can be divided; '
                f"attention 'inline' takes it, 'linear' takes {', '.join(POSITIVE_KERNELS)}"
            )
        self.kernel = one_of('kernel', kernel, POSITIVE_KERNELS)
        check_flag(local_residual=local_residual)
        self.residual = LocalKernels(dim, num_heads) if local_residual else None

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.residual is None:
            return attend_by_context(self, x, self._features)
        q, k, v = self.project(x)
        heads = (split_heads(t, self.num_heads) for t in (q, k, v))
        out = merge_heads(kernel_attention(*heads, self.kernel))
        return self.proj(out + dynamic_depthwise3x3(v, self._local_kernels(x), hw_shape))

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        q, k, v = self.project(x)
        q, k, values = (split_heads(t, self.num_heads) for t in (q, k, v))
        q, k, epsilon = positive_features(q, k, self.kernel)
        local, kernels = 0, self._local_kernels(x)
        if kernels is not None:
            local = dynamic_depthwise3x3(v, kernels, hw_shape)
            kernels = kernels.unflatten(1, (self.num_heads, -1))
        return divisive_weights(
            q,
            k,
            values,
            epsilon,
            finish=lambda out: self.proj(merge_heads(out) + local),
            local=kernels,
        )

    def _features(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, epsilon = positive_features(q, k, self.kernel)
        weights, k_mean = channel_weights(q, k, epsilon)
        return weights, k, k_mean

    def _local_kernels(self, x: Tensor) -> Tensor | None:
        return None if self.residual is None else self.residual(token_mean(x)[:, 0].to(x.dtype))

"""InLine attention as a module (arXiv 2412.06590)."""

from torch import Tensor, nn

from ..layers import is_plain
from ..ops import (
    KERNELS,
    apply_in_windows,
    inline_attention,
    inline_attention_of_qkv,
    token_mean,
    window_shift,
)
from ..utils import check_positive, one_of


class InLineAttention(nn.Module):
    """Injective linear attention with a predicted 3x3 local residual, usable in any model.

    Cost grows linearly with the number of tokens. The whole map is attended at once unless
    ``window_size`` is given.

    The layers inside may be replaced (adapters, quantisation) and hooked: they are called then, in
    the textbook's linear form. Otherwise the form is the cheapest, and takes their weights only.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        qkv: ``'separate'`` projections ``q`` and ``kv`` (as in InLine-PVT) or ``'joint'``, one
            ``qkv`` (as in InLine-Swin).
        kernel: Kernel function on queries and keys: ``'identity'``, ``'relu'``, ``'leakyrelu'``
            or ``'exp'``.
        window_size: Attend within windows of this side in tokens; means, covariances and residual
            kernels are then per window. None: the whole map.
        shift: Roll the map by half a window first (unmasked: a linear form cannot mask pairs).

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, a number is not positive, or an unknown
            name.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv: str = 'separate',
        kernel: str = 'identity',
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__()
        check_positive(dim=dim, num_heads=num_heads, window_size=window_size)
        if dim % num_heads:
            raise ValueError(f'num_heads={num_heads} does not divide dim={dim}')
        self.dim = dim
        self.num_heads = num_heads
        self.kernel = one_of('kernel', kernel, KERNELS)
        self.window_size = window_size
        self.shift = shift
        if one_of('qkv', qkv, ('separate', 'joint')) == 'joint':
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q = nn.Linear(dim, dim)
            self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.residual = nn.Sequential(
            nn.Conv1d(dim, dim, 1, groups=num_heads),
            nn.GELU(),
            nn.Conv1d(dim, 9 * dim, 1, groups=num_heads),
        )

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend over a map.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens.

        Returns:
            (B, N, C).

        Raises:
            ValueError: H * W is not N.
        """
        height, width = hw_shape
        if height * width != x.shape[1]:
            raise ValueError(f'hw_shape={tuple(hw_shape)} does not hold {x.shape[1]} tokens')
        if self.window_size is None:
            return self._attend(x, (height, width))
        window_shape = (self.window_size, self.window_size)
        return apply_in_windows(
            lambda windows: self._attend(windows, window_shape),
            x,
            (height, width),
            self.window_size,
            window_shift((height, width), self.window_size) if self.shift else (0, 0),
        )

    def _attend(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if not self._is_plain():
            return self._attend_by_calls(x, hw_shape)
        weights, biases = self._projections()
        return inline_attention(
            x,
            hw_shape,
            weights,
            biases,
            self._predict_local_kernel,
            (self.proj.weight, self.proj.bias),
            self.num_heads,
            self.kernel,
        )

    def _attend_by_calls(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if hasattr(self, 'qkv'):
            q, k, v = self.qkv(x).chunk(3, 2)
        else:
            q, (k, v) = self.q(x), self.kv(x).chunk(2, 2)
        mean = token_mean(x).to(x.dtype)
        local_kernel = self.residual(mean.mT).reshape(-1, self.dim, 3, 3)
        out = inline_attention_of_qkv(q, k, v, hw_shape, local_kernel, self.num_heads, self.kernel)
        return self.proj(out)

    def _is_plain(self) -> bool:
        if not is_plain(self.residual, nn.Sequential):
            return False
        first, _, second = self.residual
        linear = (self.qkv,) if hasattr(self, 'qkv') else (self.q, self.kv)
        return (
            all(is_plain(layer, nn.Linear) for layer in (*linear, self.proj))
            and is_plain(first, nn.Conv1d)
            and is_plain(second, nn.Conv1d)
        )

    def _predict_local_kernel(self, mean: Tensor) -> Tensor:
        """Kernels (B, C, 3, 3) from mean tokens (B, C)."""
        first, gelu, second = self.residual
        mean = mean.unflatten(1, (self.num_heads, 1, -1))  # (B, heads, 1, head_dim)
        hidden = gelu(_grouped_linear(first, mean))
        # Channel-major: nine consecutive outputs belong to one channel.
        return _grouped_linear(second, hidden).reshape(-1, self.dim, 3, 3)

    def _projections(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if hasattr(self, 'qkv'):
            return self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        return (
            (self.q.weight, *self.kv.weight.chunk(2)),
            (self.q.bias, *self.kv.bias.chunk(2)),
        )


def _grouped_linear(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A grouped convolution over one token (B, groups, 1, C / groups) as one batched product."""
    weight = conv.weight.squeeze(2).unflatten(0, (conv.groups, -1))
    return x @ weight.mT + conv.bias.view(conv.groups, 1, -1)

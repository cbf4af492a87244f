"""The pre-norm Transformer block that the backbones are made of."""

from torch import Tensor, nn

from .drop_path import DropPath
from .mlp import Mlp


class Block(nn.Module):
    """``x + mix(norm(x))``, then ``x + mlp(norm(x))``.

    Args:
        dim: Channels C.
        attn: Token mixer with ``forward(x, hw_shape)``.
        mlp_ratio: Hidden channels of the MLP over C.
        drop_path: Stochastic depth rate of both branches.
        norm_eps: Epsilon of the LayerNorms.
    """

    def __init__(
        self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of an (H, W) map to tokens of the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x), hw_shape))
        return x + self.drop_path(self.mlp(self.norm2(x)))

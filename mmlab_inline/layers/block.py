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


class CSwinBlock(Block):
    """The pre-norm block with the projections of its attention in it, as CSwin's names have it.

    Args:
        dim: Channels C.
        attns: Token mixer with ``forward(x, hw_shape, before, qkv, proj)``, where ``before`` are
            the tokens before the norm; ``attn`` is another name of it.
        mlp_ratio: Hidden channels of the MLP over C.
        drop_path: Stochastic depth rate of both branches.
    """

    def __init__(self, dim: int, attns: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__(dim, attns, mlp_ratio, drop_path, norm_eps=1e-5)
        del self.attn
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attns = attns
        self.proj = nn.Linear(dim, dim)

    @property
    def attn(self) -> nn.Module:
        return self.attns

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of an (H, W) map to tokens of the same shape."""
        attended = self.attns(self.norm1(x), hw_shape, x, self.qkv, self.proj)
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))

"""The two-layer perceptron of a Transformer block."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import hidden_tokens_are_big, runs_eagerly_on_cpu, streamed_mlp
from .plain import is_plain


class Mlp(nn.Module):
    """Linear, GELU, linear.

    Args:
        dim: Channels C.
        hidden: Channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) to tokens of the same shape."""
        layers = (self.fc1, self.fc2)
        if (
            runs_eagerly_on_cpu(x)
            and all(is_plain(layer, nn.Linear) for layer in layers)
            and hidden_tokens_are_big(x, self.fc1.out_features)
        ):
            return streamed_mlp(x, *(t for layer in layers for t in (layer.weight, layer.bias)))
        return self.fc2(F.gelu(self.fc1(x)))

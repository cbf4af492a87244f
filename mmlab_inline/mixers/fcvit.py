"""The token mixer of FCViT, a query-irrelevant global context (arXiv 2212.12552)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..layers import convolve_tokens
from ..ops import token_mean
from ..utils import check_whole
from .base import TokenMixer, token_mixer

_KERNEL_SIZE = 11


@token_mixer('fcvit')
class FCViTMixer(TokenMixer):
    """One vector for all tokens, of which each takes as much as it is like the mean; convolutions.

    Twice: the tokens get that vector, are convolved by 11x11 kernels, and pass a bottleneck. No
    weights between tokens exist. Its last step is a GELU: outputs are hardly negative.

    Args:
        dim: Channels C, a multiple of 8.
        num_heads: Has no effect.
        groups: Of channels, each of which is compared with the mean by itself; divides ``dim``.
        window_size: Work within windows of this side in tokens; None: the whole map.
        shift: Roll the map by half a window first.

    Raises:
        ValueError: ``dim`` is no multiple of 8 or of ``groups``.
    """

    paper = 'FCViT, 2022'

    def __init__(
        self,
        dim: int,
        num_heads: int,
        groups: int = 8,
        window_size: int | None = None,
        shift: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, window_size=window_size, shift=shift)
        check_whole(groups=groups)
        for divisor in (8, groups):
            if dim % divisor:
                raise ValueError(f'dim={dim} must be a multiple of {divisor}')
        self.gc1, self.gc2 = (GlobalContext(dim, groups) for _ in range(2))
        self.dw1, self.dw2 = (
            nn.Conv2d(dim, dim, _KERNEL_SIZE, padding=_KERNEL_SIZE // 2, groups=dim)
            for _ in range(2)
        )
        hidden = max(dim // 8, 16)
        self.fc1, self.fc2 = (
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.GELU())
            for _ in range(2)
        )

    def initialise(self) -> None:
        for conv in (self.dw1, self.dw2):
            nn.init.kaiming_normal_(conv.weight)  # depthwise: as many outputs as inputs
            nn.init.zeros_(conv.bias)
        for linear in (self.fc1[0], self.fc1[2], self.fc2[0], self.fc2[2]):
            nn.init.kaiming_normal_(linear.weight, mode='fan_out')

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        x = x + self.gc1(x)
        x = self.fc1(convolve_tokens(self.dw1, x, hw_shape))
        x = x + self.gc2(x)
        return self.fc2(convolve_tokens(self.dw2, x, hw_shape))

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        groups = weights.get('gc1.rescale_weight')
        return None if groups is None else dict(groups=len(groups))


class GlobalContext(nn.Module):
    """A vector made of the mean token, times how much each token is like the mean.

    Args:
        dim: Channels C, a multiple of 8.
        groups: Of channels; divides ``dim``.
    """

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // 4)
        self.fc2 = nn.Linear(dim // 8, dim)
        self.rescale_weight = nn.Parameter(torch.ones(groups))
        self.rescale_bias = nn.Parameter(torch.zeros(groups))

    def forward(self, x: Tensor) -> Tensor:
        """What tokens (B, N, C) get, (B, N, C)."""
        mean = token_mean(x)
        context = self.fc2(torch.maximum(*self.fc1(mean.to(x.dtype)).chunk(2, 2)))
        groups = (len(self.rescale_weight), -1)
        # In float32: a sum over channels and the square of a difference.
        alike = (x.to(mean.dtype) * mean).unflatten(2, groups).sum(3)  # (B, N, groups)
        alike = alike * (x.shape[2] // groups[0]) ** -0.5
        alike = alike - alike.mean((1, 2), keepdim=True)
        count = max(alike.shape[1] * alike.shape[2] - 1, 1)
        variance = alike.square().sum((1, 2), keepdim=True) / count
        # Of a map of equal tokens it is 0, where a root has no gradient.
        alike = alike / (variance.clamp(min=1e-12).sqrt() + 1e-5)
        share = (self.rescale_weight * alike + self.rescale_bias).to(x.dtype)
        return (share[..., None] * context.unflatten(2, groups)).flatten(2)

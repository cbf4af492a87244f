"""Softmax attention over a reduced map (Pyramid Vision Transformer, arXiv 2102.12122)."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import merge_heads, self_adjusted_attention, softmax_attention, split_heads
from ..utils import check_flag, check_whole
from .base import QKVMixer, Site, token_mixer
from .weights import Weights, softmax_weights


@token_mixer('spatial_reduction')
class SpatialReductionAttention(QKVMixer):
    """Multi-head softmax attention whose keys and values come from a strided map.

    Args:
        dim: Channels C.
        num_heads: Number of heads; divides ``dim``.
        sr_ratio: Stride of the map that keys and values are taken from. 1: no reduction.
        self_adjust: Weigh each key by its place between the smallest and the largest score, too.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``, or a number is not positive.
    """

    paper = 'PVT, ICCV 2021'
    heads = 'softmax'
    linear = False

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int = 1, self_adjust: bool = False
    ) -> None:
        super().__init__(dim, num_heads)
        check_whole(sr_ratio=sr_ratio)
        check_flag(self_adjust=self_adjust)
        self.sr_ratio = sr_ratio
        self.self_adjust = self_adjust
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio)
            self.norm = nn.LayerNorm(dim, eps=1e-5)

    @classmethod
    def defaults(cls, site: Site) -> dict[str, object]:
        return dict(sr_ratio=site.sr_ratio or 1)

    def mix(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend over a map.

        Args:
            x: Tokens (B, N, C), row-major over the map.
            hw_shape: Map size (H, W) in tokens. A remainder of H or W by ``sr_ratio`` gives no
                keys; a map smaller than ``sr_ratio`` is zero-padded to one key.

        Returns:
            (B, N, C).
        """
        return self._finish(self._attend(*self._heads(x, hw_shape)))

    def weigh(self, x: Tensor, hw_shape: tuple[int, int]) -> Weights:
        shape = tuple(max(side // self.sr_ratio, 1) for side in hw_shape)
        heads = self._heads(x, hw_shape)
        shape = None if self.sr_ratio == 1 else shape
        return softmax_weights(self._attend, *heads, finish=self._finish, key_shape=shape)

    def _heads(self, x: Tensor, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        keys = self.kv(self._reduce(x, hw_shape)).chunk(2, 2)
        q, k, v = (split_heads(t, self.num_heads) for t in (self.q(x), *keys))
        return q, k, v

    @property
    def _attend(self) -> Callable[..., Tensor]:
        return self_adjusted_attention if self.self_adjust else softmax_attention

    def _finish(self, out: Tensor) -> Tensor:
        return self.proj(merge_heads(out))

    def _reduce(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.sr_ratio == 1:
            return x
        height, width = hw_shape
        x = x.unflatten(1, hw_shape)
        pad_h, pad_w = max(self.sr_ratio - height, 0), max(self.sr_ratio - width, 0)
        if pad_h or pad_w:
            x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
        x = self.sr(x.permute(0, 3, 1, 2))
        return self.norm(x.permute(0, 2, 3, 1).flatten(1, 2))

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict | None:
        # Without a reduction its names are those of any attention.
        convolution = weights.get('sr.weight')
        return None if convolution is None else dict(sr_ratio=convolution.shape[-1])

"""L2ViT's local concentration module (arXiv 2501.16182)."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import nn

from .batch_norm import build_batch_norm
from .init import init_conv


class LocalConcentration(nn.Sequential):
    """Depthwise 7x7, GELU, BatchNorm, depthwise 7x7, of a map (B, C, H, W).

    Args:
        dim: Channels C.
        norm_cfg: As :func:`.build_batch_norm` takes it.
    """

    def __init__(self, dim: int, norm_cfg: Mapping = dict(type='BN')) -> None:
        super().__init__(
            OrderedDict(
                conv1=init_conv(nn.Conv2d(dim, dim, 7, padding=3, groups=dim)),
                act=nn.GELU(),
                bn=build_batch_norm(norm_cfg, dim),
                conv2=init_conv(nn.Conv2d(dim, dim, 7, padding=3, groups=dim)),
            )
        )

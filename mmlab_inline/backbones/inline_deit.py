"""InLine-DeiT: a plain Vision Transformer with InLine attention, and a feature pyramid behind it.

Papers: "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024
(arXiv 2412.06590); "Training data-efficient image transformers", ICML 2021 (arXiv 2012.12877);
pyramid: "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv 2203.16527).
Parameter names are those of the released InLine-DeiT checkpoints and of timm's ViT.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import PatchEmbed, trunc_normal_
from ..mixers import AttentionSpec, Site, initialise, resolve_attention
from ..ops import resize_pos_embed
from ..registry import register_backbone
from ..utils import check_flag, check_keywords, check_positive
from .base import (
    Blocks,
    DenseBackbone,
    build_blocks,
    channel_norm,
    drop_path_rates,
    per_stage,
    pretrain_grids,
    resolve_arch,
)

torch.fx.wrap('resize_pos_embed')  # one node: it branches on the size

PATCH_SIZE = 16


def _arch(dim: int, heads: int, **own: object) -> dict:
    return dict(embed_dims=(dim,), depths=(12,), num_heads=(heads,), mlp_ratios=(4,), **own)


ARCH_ZOO = {
    'tiny': _arch(192, 6),
    'small': _arch(320, 10, pretrain_img_size=288),
    'base': _arch(384, 12, pretrain_img_size=448),
    # Plain ViT's own widths and heads; the weights do not show the number of heads.
    'vit-tiny': _arch(192, 3, attention='softmax'),
    'vit-small': _arch(384, 6, attention='softmax'),
    'vit-base': _arch(768, 12, attention='softmax'),
}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base'}
_ARCH_KEYS = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios', 'softmax_heads')


class PlainBlocks(Blocks):
    """The blocks of a plain network, called as one: tokens (B, N, C), the class token first."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int], with_cp: bool = False) -> Tensor:
        """As :meth:`.Blocks.run`."""
        return self.run(x, hw_shape, with_cp)


class _MapNorm(nn.LayerNorm):
    """LayerNorm of the channels of a map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(super().forward, x)


@register_backbone
class InLineDeiT(DenseBackbone):
    """Plain Vision Transformer with a token mixer of choice; InLine attention by default.

    Every block attends over the whole map at stride 16. A simple feature pyramid makes maps of
    strides 4, 8, 16 and 32 of the last block's, with C / 4, C / 2, C and C channels; it starts at
    random, as no classification checkpoint holds it (``fpn1``, ``fpn2``).

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or t, s, b) for InLine-DeiT's, ``'vit-tiny'``,
            ``'vit-small'``, ``'vit-base'`` for plain ViT's widths and heads with softmax attention,
            or a dict with embed_dims, depths, num_heads, mlp_ratios, and softmax_heads where
            softmax attention has another number of heads.
        in_channels: Channels of the image.
        pretrain_img_size: Image size (H, W) in pixels, or its side, that position embeddings are
            stored for; they are resized to any other. None: the arch's own, 288 in ``'small'``,
            448 in ``'base'``, otherwise 224.
        attention: A name out of :func:`.list_attentions`, or a dict with its options; one a block
            is ``[[first, second, ...]]``, as the network is a single stage. ``'softmax'`` is ViT's
            own. None: the arch's own.
        cls_token: A class token stands before those of the map and takes part in every attention,
            as released weights need it. Only ``'inline'`` and ``'softmax'`` take it.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        out_indices: Maps to return, 0 of stride 4 to 3 of stride 32.
        frozen_stages: -1: nothing; 0: patch and position embedding and class token; k: those and
            the first k blocks, with the last one the final norm too. The pyramid is always trained.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` loads ImageNet weights.

    Raises:
        ValueError: Unknown arch, attention or option, an attention that takes no class token, or
            numbers that do not fit together.

    Examples:
        >>> model = InLineDeiT('tiny')
        >>> [tuple(y.shape) for y in model(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        in_channels: int = 3,
        pretrain_img_size: int | tuple[int, int] | None = None,
        attention: AttentionSpec | None = None,
        cls_token: bool = True,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = resolve_arch(arch, ARCH_ZOO, ALIASES, either=_ARCH_KEYS)
        given = {key: per_stage(settings[key], 1) for key in _ARCH_KEYS if key in settings}
        if any(len(value) > 1 for value in given.values()):
            raise ValueError(f'arch has {len(given["depths"])} stages, a plain network has one')
        ((dim,), (depth,), (heads,), (ratio,)) = (given[key] for key in _ARCH_KEYS[:4])
        (softmax_heads,) = given.get('softmax_heads', (heads,))
        check_positive(in_channels=in_channels)
        check_flag(cls_token=cls_token)
        if dim % 4:
            raise ValueError(f'arch embed_dims={dim} must be a multiple of 4 for the pyramid')
        super().__init__(
            (dim // 4, dim // 2, dim, dim),
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            num_freezable=depth,
        )
        self.block_strides = (PATCH_SIZE,)
        if pretrain_img_size is None:
            pretrain_img_size = settings.get('pretrain_img_size', 224)
        (self.pos_grid,) = pretrain_grids(pretrain_img_size, (PATCH_SIZE,))
        if attention is None:
            attention = settings.get('attention', 'inline')
        (choices,) = resolve_attention(attention, (depth,))
        site = Site(
            dim,
            heads,
            softmax_heads,
            qkv='joint',
            grid=self.pos_grid,
            sr_ratio=None,
            class_token=cls_token,
        )
        self.patch_embed = PatchEmbed(in_channels, dim, PATCH_SIZE, norm=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if cls_token else None
        num_tokens = cls_token + self.pos_grid[0] * self.pos_grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, num_tokens, dim))
        drop_rates = drop_path_rates(drop_path_rate, depth)
        self.blocks = PlainBlocks(build_blocks(choices, site, ratio, drop_rates, norm_eps=1e-6))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        if 0 in self.out_indices:
            self.fpn1 = nn.Sequential(
                nn.ConvTranspose2d(dim, dim // 2, 2, 2),
                _MapNorm(dim // 2, eps=1e-6),
                nn.GELU(),
                nn.ConvTranspose2d(dim // 2, dim // 4, 2, 2),
            )
        if 1 in self.out_indices:
            self.fpn2 = nn.Sequential(nn.ConvTranspose2d(dim, dim // 2, 2, 2))
        for parameter in self.stage_modules(0)[1:]:
            trunc_normal_(parameter, std=0.02)
        initialise(self)
        self._freeze_stages()

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        if index == 0:
            tokens = [] if self.cls_token is None else [self.cls_token]
            return [self.patch_embed, self.pos_embed, *tokens]
        last = [self.norm] if index == len(self.blocks) else []
        return [self.blocks[index - 1], *last]

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        return [self.stage_modules(0), *([block] for block in self.blocks)]

    def unused_modules(self) -> list[nn.Module | nn.Parameter]:
        return []

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, in_channels, H, W) to tokens (B, N, C) before the blocks, and map size."""
        x, hw_shape = self.patch_embed(x)
        if self.cls_token is None:
            x = x + resize_pos_embed(self.pos_embed, self.pos_grid, hw_shape)
        else:
            x = x + resize_pos_embed(self.pos_embed[:, 1:], self.pos_grid, hw_shape)
            first = self.cls_token + self.pos_embed[:, :1]
            x = torch.cat((first.expand(x.shape[0], -1, -1), x), 1)
        return x, hw_shape

    def run_blocks(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Images (B, in_channels, H, W) to normalised tokens (B, N, C) and their map size."""
        x, hw_shape = self.embed(x)
        return self.norm(self.blocks(x, hw_shape, self.with_cp)), hw_shape

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the requested strides.

        Args:
            x: Images (B, in_channels, H, W) of any size.

        Returns:
            For each i of ``out_indices`` (B, C_i, ceil(H / s), ceil(W / s)) with s = 4 * 2 ** i,
            contiguous.
        """
        tokens, hw_shape = self.run_blocks(x)
        height, width = x.shape[2], x.shape[3]
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        image = tokens.unflatten(1, hw_shape).permute(0, 3, 1, 2)
        outs = []
        for index, stride in zip(self.out_indices, self.out_strides, strict=True):
            out = self._resample(index, image)
            # What the image was padded by is no part of it.
            out = out[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            outs.append(out.contiguous())
        return tuple(outs)

    def _resample(self, index: int, image: Tensor) -> Tensor:
        """The map of one stride out of the one of stride 16."""
        if index < 2:
            return (self.fpn1 if index == 0 else self.fpn2)(image)
        return image if index == 2 else F.max_pool2d(image, 2, 2, ceil_mode=True)

"""InLine-PVT: Pyramid Vision Transformer with InLine attention.

Paper: "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024
(arXiv 2412.06590); macro-architecture: "Pyramid Vision Transformer", ICCV 2021 (arXiv 2102.12122).
Parameter names are those of the released InLine-PVT and PVT checkpoints.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.fx
from torch import Tensor, nn

from ..layers import PatchEmbed, trunc_normal_
from ..mixers import AttentionSpec, Site, initialise
from ..ops import resize_pos_embed
from ..registry import register_backbone
from ..utils import check_keywords, check_positive
from .base import (
    DenseBackbone,
    build_blocks,
    choose_attention,
    drop_path_rates,
    pretrain_grids,
    resolve_arch,
)

torch.fx.wrap('resize_pos_embed')  # one node: it branches on the size

PATCH_SIZES = (4, 2, 2, 2)
_WIDTHS = dict(
    embed_dims=(64, 128, 320, 512),
    num_heads=(2, 4, 10, 16),
    softmax_heads=(1, 2, 5, 8),  # PVT's own
    mlp_ratios=(8, 8, 4, 4),
)
ARCH_ZOO = {
    'tiny': dict(_WIDTHS, depths=(2, 2, 2, 2)),
    'small': dict(_WIDTHS, depths=(3, 4, 6, 3)),
    'medium': dict(_WIDTHS, depths=(3, 4, 18, 3)),
    'large': dict(_WIDTHS, depths=(3, 8, 27, 3)),
}
ALIASES = {'t': 'tiny', 's': 'small', 'm': 'medium', 'l': 'large'}


@register_backbone
class InLinePVT(DenseBackbone):
    """PVT macro-architecture with a token mixer of choice; InLine attention by default.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'medium'``, ``'large'`` (or t, s, m, l), or a dict with
            embed_dims, depths, num_heads, mlp_ratios, each with one number per stage, and
            softmax_heads where softmax attention and its like have another number of heads.
        in_channels: Channels of the image.
        pretrain_img_size: Image size (H, W) in pixels, or its side, that position embeddings and
            other tables are stored for; they are resized to any other.
        attention: A name out of :func:`.list_attentions`, or a dict with its options such as
            ``dict(type='agent', agent_num=9)``: one for all, one per stage, or within a stage one
            per block. ``'softmax'`` throughout a named arch is plain PVT.
        kernel: Older word for ``attention=dict(type='inline', kernel=...)``.
        inline_window_size: Older word for ``attention=dict(type='inline', window_size=...)``.
        sr_ratios: Spatial reduction of softmax attention, per stage.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        out_indices: Stages to return, from 0.
        frozen_stages: -1: none; 0: the first patch embedding; k: that and the first k stages.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` loads ImageNet weights.

    Raises:
        ValueError: Unknown arch, attention or option, or numbers that do not fit together.

    Examples:
        >>> model = InLinePVT('tiny')
        >>> [tuple(y.shape) for y in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        in_channels: int = 3,
        pretrain_img_size: int | tuple[int, int] = 224,
        attention: AttentionSpec = 'inline',
        kernel: str | None = None,
        inline_window_size: int | None = None,
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = resolve_arch(arch, ARCH_ZOO, ALIASES)
        dims, depths = settings['embed_dims'], settings['depths']
        if len(dims) > len(PATCH_SIZES):
            raise ValueError(f'arch has {len(dims)} stages, at most {len(PATCH_SIZES)} are known')
        if not isinstance(sr_ratios, Sequence) or len(sr_ratios) != len(dims):
            raise ValueError(f'sr_ratios={sr_ratios!r} must have one number per stage')
        check_positive(
            in_channels=in_channels, inline_window_size=inline_window_size, sr_ratios=sr_ratios
        )
        super().__init__(
            dims,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.pos_grids = pretrain_grids(pretrain_img_size, PATCH_SIZES[: len(dims)])
        mixers = choose_attention(attention, depths, kernel, inline_window_size)
        drop_rates = drop_path_rates(drop_path_rate, sum(depths))
        for stage, dim in enumerate(dims):
            number = stage + 1
            channels = dims[stage - 1] if stage else in_channels
            height, width = self.pos_grids[stage]
            site = Site(
                dim,
                settings['num_heads'][stage],
                settings.get('softmax_heads', settings['num_heads'])[stage],
                grid=self.pos_grids[stage],
                sr_ratio=sr_ratios[stage],
                stage=stage,
            )
            ratio = settings['mlp_ratios'][stage]
            blocks = build_blocks(mixers[stage], site, ratio, drop_rates, norm_eps=1e-6)
            pos_embed = nn.Parameter(torch.zeros(1, height * width, dim))
            trunc_normal_(pos_embed, std=0.02)
            self.add_module(f'patch_embed{number}', PatchEmbed(channels, dim, PATCH_SIZES[stage]))
            self.register_parameter(f'pos_embed{number}', pos_embed)
            self.add_module(f'block{number}', blocks)
        initialise(self)
        self._freeze_stages()

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        if index == 0:
            return [self.patch_embed1, self.pos_embed1]
        names = ('patch_embed', 'pos_embed', 'block')
        return [getattr(self, f'{name}{index}') for name in names]

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        layers = [self.stage_modules(0)]
        for stage in range(1, self.num_stages + 1):
            patch_embed, pos_embed, blocks = self.stage_modules(stage)
            first, *others = blocks
            entry = [patch_embed, pos_embed] if stage > 1 else []
            layers += [[*entry, first], *([block] for block in others)]
        return layers

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        number = index + 1
        x, hw_shape = getattr(self, f'patch_embed{number}')(x)
        pos_embed = getattr(self, f'pos_embed{number}')
        x = x + resize_pos_embed(pos_embed, self.pos_grids[index], hw_shape)
        return getattr(self, f'block{number}')(x, hw_shape, self.with_cp)

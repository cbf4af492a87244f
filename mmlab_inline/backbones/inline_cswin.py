"""InLine-CSwin: CSWin Transformer with InLine attention in its early stages.

Papers: "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024
(arXiv 2412.06590); macro-architecture: "CSWin Transformer", CVPR 2022 (arXiv 2107.00652).
Parameter names are those of the released InLine-CSwin and CSWin classification checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..layers import Block, CSwinBlock, OverlapEmbed
from ..mixers import (
    CSWIN_ATTENTIONS,
    AttentionSpec,
    CSwinAttention,
    Site,
    build_token_mixer,
    initialise,
    resolve_attention,
)
from ..registry import register_backbone
from ..utils import check_keywords, check_positive, check_whole
from .base import (
    Blocks,
    DenseBackbone,
    channel_norm,
    drop_path_rates,
    per_stage,
    pretrain_grids,
    resolve_arch,
)

_OWN = ('inline', 'inline', 'softmax', 'softmax')


def _arch(dim: int, heads: int, depths: tuple[int, ...], attention: AttentionSpec = _OWN) -> dict:
    num_heads = tuple(heads * 2**stage for stage in range(4))
    return dict(
        embed_dims=dim, depths=depths, num_heads=num_heads, mlp_ratios=4, attention=attention
    )


ARCH_ZOO = {
    'tiny': _arch(64, 2, (2, 4, 18, 1)),
    'small': _arch(64, 2, (3, 6, 29, 2)),
    'base': _arch(96, 4, (3, 6, 29, 2)),
    'base-384': dict(_arch(96, 4, (3, 6, 29, 2)), stripes=(1, 2, 12, None), pretrain_img_size=384),
    # CSWin's own depths.
    'cswin-tiny': _arch(64, 2, (1, 2, 21, 1), 'softmax'),
    'cswin-small': _arch(64, 2, (2, 4, 32, 2), 'softmax'),
    'cswin-base': _arch(96, 4, (2, 4, 32, 2), 'softmax'),
}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base'}


def usual_stripes(num_stages: int) -> tuple[int | None, ...]:
    """CSwin's stripe widths, one per stage: the last attends over the whole map."""
    return (*(1, 2, *[7] * num_stages)[: num_stages - 1], None)


@register_backbone
class InLineCSwin(DenseBackbone):
    """CSwin macro-architecture with a token mixer of choice per stage or block.

    ``'inline'`` and ``'softmax'`` are the architecture's own, with a static 3x3 convolution of the
    values; every other attention brings its own projections and is without it. Every output has a
    LayerNorm of its own (``norm0`` .. ``norm3``), which no classification checkpoint holds.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or t, s, b) and ``'base-384'`` (stripes of 12)
            for InLine-CSwin's, ``'cswin-tiny'``, ``'cswin-small'``, ``'cswin-base'`` for CSwin's
            depths with softmax attention, or a dict with embed_dims (of the first stage; it doubles
            from stage to stage), depths, num_heads, mlp_ratios (one number, or one per stage).
        in_channels: Channels of the image.
        pretrain_img_size: Image size (H, W) in pixels, or its side, that tables of attentions are
            stored for; they are resized to any other. None: the arch's own, 384 in ``'base-384'``,
            otherwise 224.
        attention: A name out of :func:`.list_attentions`, or a dict with its options: one for all,
            one per stage, or within a stage one per block. ``'inline'`` is always of the whole map,
            ``'softmax'`` of stripes. None: as the arch has it (``'inline'`` throughout for an arch
            given as a dict).
        stripes: Width of softmax attention's stripes in tokens, one per stage, None in a stage for
            the whole map. None: the arch's own; 1, 2 and 7 before a last stage without.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        out_indices: Stages to return, from 0.
        frozen_stages: -1: none; 0: the patch embedding; k: that and the first k stages.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` loads ImageNet weights.

    Raises:
        ValueError: Unknown arch, attention or option, or numbers that do not fit together.

    Examples:
        >>> model = InLineCSwin('tiny')
        >>> [tuple(y.shape) for y in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        in_channels: int = 3,
        pretrain_img_size: int | tuple[int, int] | None = None,
        attention: AttentionSpec | None = None,
        stripes: Sequence[int | None] | None = None,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = resolve_arch(
            arch, ARCH_ZOO, ALIASES, single=('embed_dims',), either=('mlp_ratios',)
        )
        depths, heads = settings['depths'], settings['num_heads']
        dims = [settings['embed_dims'] * 2**stage for stage in range(len(depths))]
        ratios = per_stage(settings['mlp_ratios'], len(depths))
        check_positive(in_channels=in_channels)
        super().__init__(
            dims,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if attention is None:
            attention = settings.get('attention', 'inline')
        mixers = resolve_attention(attention, depths)
        if stripes is None:
            stripes = settings.get('stripes', usual_stripes(len(depths)))
        if not isinstance(stripes, Sequence) or len(stripes) != len(depths):
            raise ValueError(f'stripes={stripes!r} must be one number or None for each stage')
        check_whole(**{f'stripes[{stage}]': width for stage, width in enumerate(stripes)})
        if pretrain_img_size is None:
            pretrain_img_size = settings.get('pretrain_img_size', 224)
        grids = pretrain_grids(pretrain_img_size, (4, *[2] * (len(dims) - 1)))
        drop_rates = drop_path_rates(drop_path_rate, sum(depths))
        self.stage1_conv_embed = OverlapEmbed(in_channels, dims[0], 7, 4, 2, names=('0', '2'))
        for stage, dim in enumerate(dims):
            site = Site(
                dim,
                heads[stage],
                settings.get('softmax_heads', heads)[stage],
                qkv='joint',
                grid=grids[stage],
                stripe=stripes[stage],
                stage=stage,
                own=CSWIN_ATTENTIONS,
            )
            if stage:
                self.add_module(f'merge{stage}', OverlapEmbed(dims[stage - 1], dim, 3, 2, 1))
            blocks = _blocks(mixers[stage], site, ratios[stage], drop_rates)
            self.add_module(f'stage{stage + 1}', blocks)
        for stage in self.out_indices:
            self.add_module(f'norm{stage}', nn.LayerNorm(dims[stage], eps=1e-5))
        initialise(self)
        self._freeze_stages()

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        if index == 0:
            return [self.stage1_conv_embed]
        modules = [self._blocks_of(index - 1)]
        if index > 1:
            modules.append(self._embed_of(index - 1))
        if index - 1 in self.out_indices:
            modules.append(getattr(self, f'norm{index - 1}'))
        return modules

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        layers = [self.stage_modules(0)]
        for stage in range(self.num_stages):
            first, *others = self._blocks_of(stage)
            entry = [self._embed_of(stage)] if stage else []
            layers += [[*entry, first], *([block] for block in others)]
        return layers

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        x, hw_shape = self._embed_of(index)(x)
        return self._blocks_of(index)(x, hw_shape, self.with_cp)

    def _embed_of(self, stage: int) -> OverlapEmbed:
        return getattr(self, f'merge{stage}') if stage else self.stage1_conv_embed

    def _blocks_of(self, stage: int) -> Blocks:
        return getattr(self, f'stage{stage + 1}')

    def _output(self, index: int, x: Tensor) -> Tensor:
        return channel_norm(getattr(self, f'norm{index}'), x)


def _blocks(choices: Sequence, site: Site, mlp_ratio: float, drop_rates: Iterator[float]) -> Blocks:
    """The blocks of a stage; of the drop rates one a block is taken."""
    blocks = Blocks()
    for index, choice in enumerate(choices):
        mixer = build_token_mixer(choice, replace(site, shift=index % 2 == 1))
        if isinstance(mixer, CSwinAttention):
            block = CSwinBlock(site.dim, mixer, mlp_ratio, next(drop_rates))
        else:
            block = Block(site.dim, mixer, mlp_ratio, next(drop_rates), norm_eps=1e-5)
        blocks.append(block)
    return blocks

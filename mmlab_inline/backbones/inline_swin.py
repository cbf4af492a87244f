"""InLine-Swin: Swin Transformer with InLine attention in its early stages.

Paper: "Bridging the Divide: Reconsidering Softmax and Linear Attention", NeurIPS 2024
(arXiv 2412.06590); macro-architecture: "Swin Transformer", ICCV 2021 (arXiv 2103.14030).
Parameter names are those of the released InLine-Swin and Swin classification checkpoints.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ..layers import PatchEmbed, PatchMerging
from ..mixers import AttentionSpec, Site, initialise
from ..registry import register_backbone
from ..utils import check_keywords, check_positive
from .base import (
    Blocks,
    DenseBackbone,
    build_blocks,
    channel_norm,
    choose_attention,
    drop_path_rates,
    per_stage,
    pretrain_grids,
    resolve_arch,
)

PATCH_SIZE = 4
# The paper's appendix prints softmax for the third stage of tiny; the authors confirm InLine.
ARCH_ZOO = {
    'tiny': dict(
        embed_dims=96,
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        mlp_ratios=4,
        attention=('inline', 'inline', 'inline', 'softmax'),
    ),
    'small': dict(
        embed_dims=96,
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        mlp_ratios=4,
        attention=('inline', 'inline', 'softmax', 'softmax'),
    ),
    'base': dict(
        embed_dims=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        mlp_ratios=4,
        attention=('inline', 'inline', ('inline',) * 2 + ('softmax',) * 16, 'softmax'),
    ),
}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base'}


class SwinStage(nn.Module):
    """Blocks, and before the next stage a patch merging: holds the released names together.

    The next stage calls the patch merging; calling this one runs its blocks.
    """

    def __init__(self, blocks: Blocks, downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = blocks
        self.downsample = downsample

    def forward(self, x: Tensor, hw_shape: tuple[int, int], with_cp: bool = False) -> Tensor:
        """As :meth:`.Blocks.forward`."""
        return self.blocks(x, hw_shape, with_cp)


@register_backbone
class InLineSwin(DenseBackbone):
    """Swin macro-architecture with a token mixer of choice per stage or block.

    Every output has a LayerNorm of its own (``norm0`` .. ``norm3``), which no classification
    checkpoint holds.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or t, s, b), or a dict with embed_dims (of the
            first stage; it doubles from stage to stage), depths, num_heads, mlp_ratios (one
            number, or one per stage).
        in_channels: Channels of the image.
        pretrain_img_size: Image size (H, W) in pixels, or its side, that tables of attentions are
            stored for; they are resized to any other.
        attention: A name out of :func:`.list_attentions`, or a dict with its options such as
            ``dict(type='agent', agent_num=9)``: one for all, one per stage, or within a stage one
            per block. ``'softmax'`` throughout is plain Swin. None: as the paper's arch has it
            (``'inline'`` throughout for an arch given as a dict).
        kernel: Older word for ``attention=dict(type='inline', kernel=...)``.
        window_size: Window of softmax attention in tokens (12 in the 384-pixel base).
        inline_window_size: Older word for ``attention=dict(type='inline', window_size=...)``.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        out_indices: Stages to return, from 0.
        frozen_stages: -1: none; 0: the patch embedding; k: that and the first k stages.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` loads ImageNet weights.

    Raises:
        ValueError: Unknown arch, attention or option, or numbers that do not fit together.

    Examples:
        >>> model = InLineSwin('tiny')
        >>> [tuple(y.shape) for y in model(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        in_channels: int = 3,
        pretrain_img_size: int | tuple[int, int] = 224,
        attention: AttentionSpec | None = None,
        kernel: str | None = None,
        window_size: int = 7,
        inline_window_size: int | None = None,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = resolve_arch(
            arch, ARCH_ZOO, ALIASES, single=('embed_dims',), either=('mlp_ratios',)
        )
        depths = settings['depths']
        dims = [settings['embed_dims'] * 2**stage for stage in range(len(depths))]
        ratios = per_stage(settings['mlp_ratios'], len(depths))
        check_positive(
            in_channels=in_channels, window_size=window_size, inline_window_size=inline_window_size
        )
        super().__init__(
            dims,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if attention is None:
            attention = settings.get('attention', 'inline')
        mixers = choose_attention(attention, depths, kernel, inline_window_size)
        grids = pretrain_grids(pretrain_img_size, (PATCH_SIZE, *[2] * (len(dims) - 1)))
        drop_rates = drop_path_rates(drop_path_rate, sum(depths))
        self.patch_embed = PatchEmbed(in_channels, dims[0], PATCH_SIZE)
        self.layers = nn.ModuleList()
        for stage, dim in enumerate(dims):
            site = Site(
                dim,
                settings['num_heads'][stage],
                settings.get('softmax_heads', settings['num_heads'])[stage],
                qkv='joint',
                grid=grids[stage],
                window=window_size,
                stage=stage,
            )
            blocks = build_blocks(mixers[stage], site, ratios[stage], drop_rates, norm_eps=1e-5)
            last = stage == len(dims) - 1
            self.layers.append(SwinStage(blocks, None if last else PatchMerging(dim)))
        for stage in self.out_indices:
            self.add_module(f'norm{stage}', nn.LayerNorm(dims[stage], eps=1e-5))
        initialise(self)
        self._freeze_stages()

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        if index == 0:
            return [self.patch_embed]
        modules = [self.layers[index - 1]]
        if index - 1 in self.out_indices:
            modules.append(getattr(self, f'norm{index - 1}'))
        return modules

    def unused_modules(self) -> list[nn.Module | nn.Parameter]:
        downsample = self.layers[self.out_indices[-1]].downsample
        return [*super().unused_modules(), *([downsample] if downsample is not None else [])]

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        layers = [self.stage_modules(0)]
        for before, stage in zip([None, *self.layers], self.layers, strict=False):
            first, *others = stage.blocks
            entry = [before.downsample] if before else []
            layers += [[*entry, first], *([block] for block in others)]
        return layers

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        if index == 0:
            x, hw_shape = self.patch_embed(x)
        else:
            tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
            x, hw_shape = self.layers[index - 1].downsample(tokens, x.shape[2:])
        return self.layers[index](x, hw_shape, self.with_cp)

    def _output(self, index: int, x: Tensor) -> Tensor:
        return channel_norm(getattr(self, f'norm{index}'), x)

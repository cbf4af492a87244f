"""L2ViT: blocks of window attention and of linear attention in turn.

Paper: "The Linear Attention Resurrection in Vision Transformer" (arXiv 2501.16182). Parameter
names are those of the released classification checkpoints.
"""

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from ..layers import (
    Block,
    ConvEmbed,
    ConvMerging,
    LocalConcentration,
    batch_norms,
    convolve_tokens,
    init_conv,
)
from ..mixers import (
    AttentionSpec,
    Site,
    TokenMixer,
    build_token_mixer,
    initialise,
    resolve_attention,
)
from ..registry import register_backbone
from ..utils import check_flag, check_keywords, check_positive
from .base import (
    Blocks,
    DenseBackbone,
    channel_norm,
    drop_path_rates,
    per_stage,
    pretrain_grids,
    resolve_arch,
)

_DIMS, _HEADS = (96, 192, 384, 768), (3, 6, 12, 24)
ARCH_ZOO = {
    'tiny': dict(embed_dims=_DIMS, depths=(2, 2, 6, 2), num_heads=_HEADS, mlp_ratios=4),
    'small': dict(embed_dims=_DIMS, depths=(2, 2, 18, 2), num_heads=_HEADS, mlp_ratios=4),
    'base': dict(
        embed_dims=(128, 256, 512, 1024),
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        mlp_ratios=4,
    ),
}
ALIASES = {'t': 'tiny', 's': 'small', 'b': 'base'}


def attention_in_turn(depths: Sequence[int]) -> list[tuple[str, ...]]:
    """The paper's choice: in each stage windows first, then linear attention, and so on."""
    return [tuple(('softmax', 'l2vit')[index % 2] for index in range(depth)) for depth in depths]


class PositionEncoding(nn.Module):
    """Depthwise 3x3 convolution of the tokens, and a skip.

    Args:
        dim: Channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = init_conv(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of an (H, W) map to tokens of the same shape."""
        return x + convolve_tokens(self.proj, x, hw_shape)


class L2ViTBlock(Block):
    """The pre-norm block with convolutions before and after the attention.

    Args:
        dim: Channels C.
        attn: Token mixer.
        mlp_ratio: Hidden channels of the MLP over C.
        drop_path: Stochastic depth rate of the branches that have a norm.
        norm_cfg: Of the local concentration module behind the attention, which blocks of linear
            attention have; None for a second position encoding there.
    """

    def __init__(
        self,
        dim: int,
        attn: TokenMixer,
        mlp_ratio: float,
        drop_path: float,
        norm_cfg: Mapping | None,
    ) -> None:
        super().__init__(dim, attn, mlp_ratio, drop_path, norm_eps=1e-5)
        self.cpe = nn.ModuleList([PositionEncoding(dim)])
        if norm_cfg is None:
            self.cpe.append(PositionEncoding(dim))
        else:
            self.norm3 = nn.LayerNorm(dim, eps=1e-5)
            self.local_mp = LocalConcentration(dim, norm_cfg)

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Tokens (B, N, C) of an (H, W) map to tokens of the same shape."""
        x = self.cpe[0](x, hw_shape)
        x = x + self.drop_path(self.attn(self.norm1(x), hw_shape))
        if len(self.cpe) > 1:
            x = self.cpe[1](x, hw_shape)
        else:
            x = x + self.drop_path(convolve_tokens(self.local_mp, self.norm3(x), hw_shape))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@register_backbone
class L2ViT(DenseBackbone):
    """L2ViT with a token mixer of choice per stage or block.

    Blocks with an even index in their stage have a second position encoding behind the attention,
    those with an odd one the local concentration module, whatever attention is chosen. Windows are
    not shifted. Every output has a LayerNorm of its own (``norm0`` .. ``norm3``), which no
    classification checkpoint holds.

    Args:
        arch: ``'tiny'``, ``'small'``, ``'base'`` (or t, s, b), or a dict with embed_dims, depths,
            num_heads (one number per stage), mlp_ratios (one number, or one per stage).
        in_channels: Channels of the image.
        pretrain_img_size: Image size (H, W) in pixels, or its side, that tables of attentions are
            stored for; they are resized to any other.
        attention: A name out of :func:`.list_attentions`, or a dict with its options: one for all,
            one per stage, or within a stage one per block. ``'softmax'`` is attention in windows
            without position bias. None: that and ``'l2vit'`` in turn.
        window_size: Window of softmax attention in tokens (12 in the 384-pixel base).
        norm_cfg: ``dict(type='BN')``, as the authors train also on 2 images a GPU, or
            ``dict(type='SyncBN')``.
        norm_eval: Leave running statistics of BatchNorm as they are while training.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        out_indices: Stages to return, from 0.
        frozen_stages: -1: none; 0: the patch embedding; k: that and the first k stages.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: ``dict(type='Pretrained', checkpoint=PATH)`` loads ImageNet weights.

    Raises:
        ValueError: Unknown arch, attention, option or norm, or numbers that do not fit together.

    Examples:
        >>> model = L2ViT('tiny')
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
        window_size: int = 7,
        norm_cfg: Mapping = dict(type='BN'),
        norm_eval: bool = False,
        drop_path_rate: float = 0.1,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings = resolve_arch(arch, ARCH_ZOO, ALIASES, either=('mlp_ratios',))
        dims, depths = settings['embed_dims'], settings['depths']
        ratios = per_stage(settings['mlp_ratios'], len(depths))
        heads = settings['num_heads']
        softmax_heads = settings.get('softmax_heads', heads)
        check_positive(in_channels=in_channels, window_size=window_size)
        super().__init__(
            dims,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        check_flag(norm_eval=norm_eval)
        self.norm_eval = norm_eval
        if attention is None:
            attention = attention_in_turn(depths)
        mixers = resolve_attention(attention, depths)
        grids = pretrain_grids(pretrain_img_size, (4, *[2] * (len(dims) - 1)))
        drop_rates = drop_path_rates(drop_path_rate, sum(depths))
        self.downsample_layers = nn.ModuleList([ConvEmbed(in_channels, dims[0], norm_cfg)])
        self.downsample_layers.extend(map(ConvMerging, dims[:-1], dims[1:]))
        self.stages = nn.ModuleList()
        for stage, dim in enumerate(dims):
            site = Site(
                dim,
                heads[stage],
                softmax_heads[stage],
                qkv='joint',
                grid=grids[stage],
                window=window_size,
                position_bias=False,
                stage=stage,
            )
            self.stages.append(_blocks(mixers[stage], site, ratios[stage], drop_rates, norm_cfg))
        for stage in self.out_indices:
            self.add_module(f'norm{stage}', nn.LayerNorm(dims[stage], eps=1e-5))
        initialise(self)
        self._freeze_stages()

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        if index == 0:
            return [self.downsample_layers[0]]
        modules = [self.stages[index - 1]]
        if index > 1:
            modules.append(self.downsample_layers[index - 1])
        if index - 1 in self.out_indices:
            modules.append(getattr(self, f'norm{index - 1}'))
        return modules

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        layers = [self.stage_modules(0)]
        for index, (first, *others) in enumerate(self.stages):
            entry = [self.downsample_layers[index]] if index else []
            layers += [[*entry, first], *([block] for block in others)]
        return layers

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        if index == 0:
            x, hw_shape = self.downsample_layers[0](x)
        else:
            tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
            x, hw_shape = self.downsample_layers[index](tokens, x.shape[2:])
        return self.stages[index](x, hw_shape, self.with_cp)

    def _output(self, index: int, x: Tensor) -> Tensor:
        return channel_norm(getattr(self, f'norm{index}'), x)

    def train(self, mode: bool = True) -> 'L2ViT':
        """Switch the mode; with ``norm_eval`` BatchNorms stay in eval mode, but learn."""
        super().train(mode)
        if self.norm_eval:
            for norm in batch_norms(self):
                norm.eval()
        return self


def _blocks(
    choices: Sequence,
    site: Site,
    mlp_ratio: float,
    drop_rates: Iterator[float],
    norm_cfg: Mapping,
) -> Blocks:
    """The blocks of a stage; of the drop rates one a block is taken."""
    return Blocks(
        L2ViTBlock(
            site.dim,
            build_token_mixer(choice, site),
            mlp_ratio,
            next(drop_rates),
            norm_cfg if index % 2 else None,
        )
        for index, choice in enumerate(choices)
    )

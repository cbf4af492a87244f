"""The backbones as timm models with a classification head.

``import mmlab_inline.timm`` registers them with timm:

    >>> import timm, mmlab_inline.timm
    >>> model = timm.create_model('inline_pvt_tiny', num_classes=10)
    >>> maps = timm.create_model('inline_swin_tiny', features_only=True, out_indices=(1, 3))

The networks are those of :mod:`.backbones`, and parameter names are those of the released
checkpoints: weights move between both, and from the authors' files to either.
"""

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._features import feature_take_indices
from timm.models._features_fx import register_notrace_module
from torch import Tensor, nn

from .backbones import InLineCSwin, InLineDeiT, InLinePVT, InLineSwin, L2ViT
from .backbones.base import LEAF_MODULES, DenseBackbone, channel_norm
from .backbones.inline_deit import ARCH_ZOO as DEIT_ZOO
from .backbones.pretrained import RECOMPUTED
from .layers import init_linear_and_norm
from .mixers import AttentionSpec
from .utils import check_keywords
from .weights.released import RELEASED_WEIGHTS

__all__ = [
    'InLineCSwinClassifier',
    'InLineDeiTClassifier',
    'InLinePVTClassifier',
    'InLineSwinClassifier',
    'L2ViTClassifier',
]


class CfgNode:
    """Puts a plain dict in the place of the yacs config that released files hold beside weights."""

    __module__ = 'yacs.config'

    def __new__(cls, *args: object) -> OrderedDict:
        return OrderedDict()


torch.serialization.add_safe_globals([CfgNode, Namespace])  # timm's reader would refuse

for _leaf in LEAF_MODULES:
    register_notrace_module(_leaf)


class _Classifier(DenseBackbone):
    """What timm's scripts and tools ask of a model, around the stages of a dense backbone.

    Attributes:
        feature_info: Channels, stride in pixels and module of each stage's map.
        num_features: Channels of the last map.
    """

    pooling = 'avg'

    def _finish(
        self,
        stage_names: Sequence[str],
        in_chans: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        """Add the head and the self-description to a constructed backbone."""
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=name)
            for channels, stride, name in zip(
                self.out_channels, self.out_strides, stage_names, strict=True
            )
        ]
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = self.out_channels[-1]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def _one_norm(self) -> None:
        """One final norm in the place of a dense backbone's output norms."""
        for stage in range(self.num_stages):
            delattr(self, f'norm{stage}')
        self.norm = nn.LayerNorm(self.out_channels[-1], eps=1e-5)

    def normalise(self, x: Tensor) -> Tensor:
        """Final norm of the last map (B, C, H, W), where the architecture has one."""
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to the last map (B, C, ceil(H / 32), ceil(W / 32))."""
        for stage in range(self.num_stages):
            x = self.forward_stage(stage, x)
        return self.normalise(x)

    def pool(self, x: Tensor) -> Tensor:
        """Last map (B, C, H, W) to features (B, C)."""
        return x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Last map (B, C, H, W) to logits (B, num_classes), or to pooled features (B, C)."""
        x = self.head_drop(self.pool(x) if self.global_pool else x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) of any size to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of chosen stages.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages; an int: the last so many; None: all.
            norm: Apply the final norm to the last stage's map, where it is among them.
            stop_early: Leave out the stages after the last chosen one.
            output_fmt: ``'NCHW'``.
            intermediates_only: Return the chosen maps alone.

        Returns:
            The last map as :meth:`forward_features` has it (with ``stop_early`` that of the last
            stage run), and the chosen maps (B, C_i, H_i, W_i).

        Raises:
            ValueError: Another ``output_fmt``.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW'")
        chosen, last = feature_take_indices(self.num_stages, indices)
        maps = []
        for stage in range(last + 1 if stop_early else self.num_stages):
            x = self.forward_stage(stage, x)
            final = self.normalise(x) if stage == self.num_stages - 1 else x
            if stage in chosen:
                maps.append((final if norm else x).contiguous())
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what the chosen stages do not need.

        Returns:
            The chosen stages, counted from 0.
        """
        chosen, last = feature_take_indices(self.num_stages, indices)
        shorter = last + 1 < self.num_stages
        if shorter:
            self._drop_stages(last + 1)
            self.num_stages = last + 1
            self.out_indices = tuple(range(last + 1))
            self.num_features = self.head_hidden_size = self.feature_info[last]['num_chs']
        if shorter or prune_norm:
            self._drop_norm()
        if shorter or prune_head:
            self.reset_classifier(0, '')
        return chosen

    def _drop_stages(self, start: int) -> None:
        """Remove the modules of the stages from ``start`` on."""
        raise NotImplementedError

    def _drop_norm(self) -> None:
        """Remove the final norm, where there is one."""

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new last layer in.

        Args:
            num_classes: Its outputs; 0: none, :meth:`forward` then returns pooled features.
            global_pool: ``'avg'`` (DeiT: ``'token'``), ``''`` for no pooling, None to leave it.

        Raises:
            ValueError: Another pooling, or classes without pooling.
        """
        if global_pool is not None:
            if global_pool not in (self.pooling, ''):
                raise ValueError(f"global_pool={global_pool!r} must be {self.pooling!r} or ''")
            self.global_pool = global_pool
        if num_classes and not self.global_pool:
            raise ValueError(f'a classifier needs global_pool={self.pooling!r}')
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        init_linear_and_norm(head)
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass, to save memory."""
        self.with_cp = enable

    def no_weight_decay(self) -> set[str]:
        """Position embeddings, and what the attentions say of themselves."""
        return set(self.parameters_without_decay())

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> object:
        """Load weights; buffers that released files hold and that are computed here are skipped."""
        weights = {key: value for key, value in state_dict.items() if not RECOMPUTED.search(key)}
        return super().load_state_dict(weights, strict, assign)


class InLinePVTClassifier(_Classifier, InLinePVT):
    """InLine-PVT for classification: the mean of the last map, then a linear layer.

    Args:
        arch: As in :class:`.InLinePVT`.
        attention: As there.
        pretrain_img_size: As there.
        in_chans: Channels of the image.
        num_classes: 0: no last layer.
        global_pool: ``'avg'``, or ``''`` for none.
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        device: Where the parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: Unknown arch or pooling.
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        attention: AttentionSpec = 'inline',
        pretrain_img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arch,
            attention=attention,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_chans,
            drop_path_rate=drop_path_rate,
        )
        names = [f'block{number}' for number in range(1, self.num_stages + 1)]
        self._finish(names, in_chans, num_classes, global_pool, drop_rate)
        self.to(device=device, dtype=dtype)

    def _drop_stages(self, start: int) -> None:
        for number in range(start + 1, self.num_stages + 1):
            for name in ('patch_embed', 'pos_embed', 'block'):
                delattr(self, f'{name}{number}')

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning rates: each stage (coarse) or block, head last."""
        embeddings = r'^(?:patch_embed|pos_embed)(\d+)'
        return dict(
            stem=r'^(?:patch_embed|pos_embed)1',
            blocks=[(embeddings, None), (r'^block(\d+)', None)]
            if coarse
            else [(embeddings, (0,)), (r'^block(\d+)\.(\d+)', None)],
        )


class InLineSwinClassifier(_Classifier, InLineSwin):
    """InLine-Swin for classification: final norm, the mean of the last map, a linear layer.

    Maps of the stages are without a norm of their own, as in timm's Swin.

    Args:
        arch: As in :class:`.InLineSwin`.
        attention: As there.
        pretrain_img_size: As there.
        in_chans: Channels of the image.
        num_classes: 0: no last layer.
        global_pool: ``'avg'``, or ``''`` for none.
        window_size: Window of softmax attention in tokens (12 in the 384-pixel base).
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        device: Where the parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: Unknown arch or pooling.
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        attention: AttentionSpec | None = None,
        pretrain_img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        window_size: int = 7,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arch,
            attention=attention,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_chans,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
        )
        self._one_norm()
        names = [f'layers.{stage}.blocks' for stage in range(self.num_stages)]
        self._finish(names, in_chans, num_classes, global_pool, drop_rate)
        self.to(device=device, dtype=dtype)

    def normalise(self, x: Tensor) -> Tensor:
        return channel_norm(self.norm, x)

    def _drop_stages(self, start: int) -> None:
        self.layers = self.layers[:start]
        self.layers[-1].downsample = None

    def _drop_norm(self) -> None:
        self.norm = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning rates: each stage (coarse) or block, head last."""
        last = (99999,)  # timm's mark for what joins the group before it
        return dict(
            stem=r'^patch_embed',
            blocks=r'^layers\.(\d+)'
            if coarse
            else [
                (r'^layers\.(\d+)\.downsample', last),
                (r'^layers\.(\d+)\.blocks\.(\d+)', None),
                (r'^norm', last),
            ],
        )


class InLineCSwinClassifier(_Classifier, InLineCSwin):
    """InLine-CSwin, or CSwin, for classification: final norm, mean of the last map, linear layer.

    Maps of the stages are without a norm of their own, as those of InLine-Swin.

    Args:
        arch: As in :class:`.InLineCSwin`.
        attention: As there.
        pretrain_img_size: As there.
        in_chans: Channels of the image.
        num_classes: 0: no last layer.
        global_pool: ``'avg'``, or ``''`` for none.
        stripes: Width of softmax attention's stripes, as in :class:`.InLineCSwin`.
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        device: Where the parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: Unknown arch or pooling.
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        attention: AttentionSpec | None = None,
        pretrain_img_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        stripes: Sequence[int | None] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arch,
            attention=attention,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_chans,
            stripes=stripes,
            drop_path_rate=drop_path_rate,
        )
        self._one_norm()
        names = [f'stage{number}' for number in range(1, self.num_stages + 1)]
        self._finish(names, in_chans, num_classes, global_pool, drop_rate)
        self.to(device=device, dtype=dtype)

    def normalise(self, x: Tensor) -> Tensor:
        return channel_norm(self.norm, x)

    def _drop_stages(self, start: int) -> None:
        for stage in range(start, self.num_stages):
            delattr(self, f'merge{stage}')
            delattr(self, f'stage{stage + 1}')

    def _drop_norm(self) -> None:
        self.norm = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning rates: each stage (coarse) or block, head last."""
        last = (99999,)  # timm's mark for what joins the group before it
        return dict(
            stem=r'^stage1_conv_embed',
            blocks=r'^(?:stage|merge)(\d+)'
            if coarse
            else [(r'^merge(\d+)', last), (r'^stage(\d+)\.(\d+)', None), (r'^norm', last)],
        )


class L2ViTClassifier(_Classifier, L2ViT):
    """L2ViT for classification: the mean of the last map, a final norm, a linear layer.

    Args:
        arch: As in :class:`.L2ViT`.
        attention: As there.
        pretrain_img_size: As there.
        in_chans: Channels of the image.
        num_classes: 0: no last layer.
        global_pool: ``'avg'``, or ``''`` for none.
        window_size: Window of softmax attention in tokens (12 in the 384-pixel base).
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        device: Where the parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: Unknown arch or pooling.
    """

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        attention: AttentionSpec | None = None,
        pretrain_img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        window_size: int = 7,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arch,
            attention=attention,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_chans,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
        )
        self._one_norm()
        names = [f'stages.{stage}' for stage in range(self.num_stages)]
        self._finish(names, in_chans, num_classes, global_pool, drop_rate)
        self.to(device=device, dtype=dtype)

    def pool(self, x: Tensor) -> Tensor:
        return self.norm(super().pool(x))

    def _drop_stages(self, start: int) -> None:
        self.stages = self.stages[:start]
        self.downsample_layers = self.downsample_layers[:start]

    def _drop_norm(self) -> None:
        self.norm = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning rates: each stage (coarse) or block, head last."""
        return dict(
            stem=r'^downsample_layers\.0',
            blocks=r'^(?:downsample_layers|stages)\.(\d+)'
            if coarse
            else [
                (r'^downsample_layers\.(\d+)', (0,)),
                (r'^stages\.(\d+)\.(\d+)', None),
                (r'^norm', (99999,)),
            ],
        )


class InLineDeiTClassifier(_Classifier, InLineDeiT):
    """InLine-DeiT, or plain ViT, for classification: the class token, then a linear layer.

    Its stages are its blocks: each has a map of stride 16.

    Args:
        arch: As in :class:`.InLineDeiT`.
        attention: As there; it has to take a class token.
        pretrain_img_size: As there.
        in_chans: Channels of the image.
        num_classes: 0: no last layer.
        global_pool: ``'token'``, or ``''`` for all tokens.
        drop_rate: Dropout before the last layer.
        drop_path_rate: Stochastic depth rate of the last block; linear from 0 at the first.
        device: Where the parameters live.
        dtype: Of the parameters.

    Raises:
        ValueError: Unknown arch or pooling.
    """

    pooling = 'token'

    @check_keywords
    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        *,
        attention: AttentionSpec | None = None,
        pretrain_img_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'token',
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            arch,
            attention=attention,
            pretrain_img_size=pretrain_img_size,
            in_channels=in_chans,
            drop_path_rate=drop_path_rate,
            out_indices=(2,),  # no pyramid
        )
        self.num_stages = len(self.blocks)
        self.out_channels *= self.num_stages
        self.out_strides *= self.num_stages
        names = [f'blocks.{index}' for index in range(self.num_stages)]
        self._finish(names, in_chans, num_classes, global_pool, drop_rate)
        self.to(device=device, dtype=dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) to normalised tokens (B, 1 + N, C), the class token first."""
        return self.run_blocks(x)[0]

    def pool(self, x: Tensor) -> Tensor:
        return x[:, 0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of chosen blocks, as :meth:`_Classifier.forward_intermediates` of stages.

        With ``norm`` the final norm is applied to each, as in timm's ViT.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt={output_fmt!r} must be 'NCHW'")
        chosen, last = feature_take_indices(self.num_stages, indices)
        x, hw_shape = self.embed(x)
        maps = []
        for index in range(last + 1 if stop_early else self.num_stages):
            x = self.blocks.run_one(self.blocks[index], x, hw_shape, self.with_cp)
            if index in chosen:
                tokens = (self.norm(x) if norm else x)[:, 1:]
                maps.append(tokens.unflatten(1, hw_shape).permute(0, 3, 1, 2).contiguous())
        return maps if intermediates_only else (self.norm(x), maps)

    def _drop_stages(self, start: int) -> None:
        self.blocks = self.blocks[:start]

    def _drop_norm(self) -> None:
        self.norm = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer-wise learning rates: each block, head last."""
        return dict(
            stem=r'^patch_embed|^pos_embed|^cls_token',
            blocks=[(r'^blocks\.(\d+)', None), (r'^norm', (99999,))],
        )


_INLINE_PAPER = dict(
    paper_ids='arXiv:2412.06590',
    paper_name='Bridging the Divide: Reconsidering Softmax and Linear Attention',
)
# What timm is told of each family beside what all have in common.
_FAMILIES = {
    'inline_pvt': dict(first_conv='patch_embed1.proj', **_INLINE_PAPER),
    'inline_swin': dict(first_conv='patch_embed.proj', **_INLINE_PAPER),
    'inline_cswin': dict(first_conv='stage1_conv_embed.0', **_INLINE_PAPER),
    'inline_deit': dict(first_conv='patch_embed.proj', pool_size=None, **_INLINE_PAPER),
    'l2vit': dict(
        first_conv='downsample_layers.0.proj.proj.0',
        paper_ids='arXiv:2501.16182',
        paper_name='The Linear Attention Resurrection in Vision Transformer',
    ),
}


def _default_cfg(name: str) -> dict:
    """How the released weights were trained, in timm's words."""
    family, _, arch = name.rpartition('_')
    own = DEIT_ZOO[arch] if family == 'inline_deit' else {}
    side = own.get('pretrain_img_size', 224)
    common = dict(
        origin_url=RELEASED_WEIGHTS[name],  # no url: its file has no name that timm could cache
        num_classes=1000,
        input_size=(3, side, side),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation='bicubic',
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        classifier='head',
    )
    return {**common, **_FAMILIES[family]}


# register_model looks for this name.
default_cfgs = generate_default_cfgs(
    {
        f'{name}.in1k': _default_cfg(name)
        for name in RELEASED_WEIGHTS
        if name.rpartition('_')[0] in _FAMILIES
    }
)


def _entry_point(cls: type[_Classifier], name: str) -> Callable[..., nn.Module]:
    """What timm's create_model calls, registered."""

    def build(pretrained: bool = False, **kwargs: object) -> nn.Module:
        overrides = (kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
        cfg = resolve_pretrained_cfg(name, *overrides)
        if pretrained and not (cfg.has_weights or cfg.state_dict):
            raise RuntimeError(
                f'{name}: its weights cannot be fetched by timm. Download them from '
                f'{RELEASED_WEIGHTS[name]} and pass checkpoint_path=FILE instead of '
                'pretrained=True; for another number of classes or channels, or features_only, '
                'pass pretrained=True and pretrained_cfg_overlay=dict(file=FILE)'
            )
        return build_model_with_cfg(
            cls,
            name,
            pretrained,
            arch=name.rpartition('_')[2],
            feature_cfg=dict(out_indices=4, feature_cls='getter'),  # the last ones
            **kwargs,
        )

    build.__name__ = build.__qualname__ = name
    return register_model(build)


inline_pvt_tiny = _entry_point(InLinePVTClassifier, 'inline_pvt_tiny')
inline_pvt_small = _entry_point(InLinePVTClassifier, 'inline_pvt_small')
inline_pvt_medium = _entry_point(InLinePVTClassifier, 'inline_pvt_medium')
inline_pvt_large = _entry_point(InLinePVTClassifier, 'inline_pvt_large')
inline_swin_tiny = _entry_point(InLineSwinClassifier, 'inline_swin_tiny')
inline_swin_small = _entry_point(InLineSwinClassifier, 'inline_swin_small')
inline_swin_base = _entry_point(InLineSwinClassifier, 'inline_swin_base')
inline_cswin_tiny = _entry_point(InLineCSwinClassifier, 'inline_cswin_tiny')
inline_cswin_small = _entry_point(InLineCSwinClassifier, 'inline_cswin_small')
inline_cswin_base = _entry_point(InLineCSwinClassifier, 'inline_cswin_base')
inline_deit_tiny = _entry_point(InLineDeiTClassifier, 'inline_deit_tiny')
inline_deit_small = _entry_point(InLineDeiTClassifier, 'inline_deit_small')
inline_deit_base = _entry_point(InLineDeiTClassifier, 'inline_deit_base')
l2vit_tiny = _entry_point(L2ViTClassifier, 'l2vit_tiny')
l2vit_small = _entry_point(L2ViTClassifier, 'l2vit_small')
l2vit_base = _entry_point(L2ViTClassifier, 'l2vit_base')

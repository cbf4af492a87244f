"""What the backbones share: arch zoo look-up, frozen stages, checkpointing, pretrained weights."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import accumulate
from numbers import Real

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import (
    Block,
    ConvEmbed,
    ConvMerging,
    CSwinBlock,
    DropPath,
    Mlp,
    OverlapEmbed,
    PatchEmbed,
    PatchMerging,
    batch_norms,
    statistics_kept,
)
from ..mixers import (
    AttentionSpec,
    Site,
    TokenMixer,
    as_options,
    build_token_mixer,
    resolve_attention,
    shortest_attention,
)
from ..utils import check_flag, check_positive, check_whole, is_whole, one_of
from .pretrained import load_pretrained

LEAF_MODULES = (
    TokenMixer,
    Mlp,
    PatchEmbed,
    PatchMerging,
    ConvEmbed,
    ConvMerging,
    OverlapEmbed,
    CSwinBlock,
    DropPath,
)
"""Modules whose forward branches on sizes, devices or modes: torch.fx takes each as one node."""


class DenseBackbone(BaseModule):
    """A four-stage backbone that returns one map per requested stage.

    A plain one makes its four maps of one stage, and freezes by blocks (``num_freezable``).

    Subclasses list the modules of their stem and stages in :meth:`stage_modules`.

    Attributes:
        out_channels: Channels of each output, in the order of ``out_indices``.
        out_strides: Stride in pixels of each output.
        block_strides: Stride in pixels of the tokens of each stage's blocks.
    """

    def __init__(
        self,
        stage_dims: Sequence[int],
        *,
        out_indices: Sequence[int],
        frozen_stages: int,
        with_cp: bool,
        init_cfg: dict | list | None,
        num_freezable: int | None = None,
    ) -> None:
        if not all(item is None or _is_initialiser(item) for item in _items(init_cfg)):
            raise ValueError(
                f"init_cfg={init_cfg!r} must be dict(type='Pretrained', checkpoint=PATH), "
                'another of mmengine, or a list of such'
            )
        super().__init__(init_cfg)
        num_stages = len(stage_dims)
        if (
            not isinstance(out_indices, Sequence)
            or not out_indices
            or list(out_indices) != sorted(set(out_indices))
            or not set(out_indices) <= set(range(num_stages))
        ):
            raise ValueError(
                f'out_indices={out_indices!r} must be increasing stage indices '
                f'out of {tuple(range(num_stages))}'
            )
        most = num_stages if num_freezable is None else num_freezable
        if not (is_whole(frozen_stages) and -1 <= frozen_stages <= most):
            raise ValueError(f'frozen_stages={frozen_stages!r} must lie in -1..{most}')
        check_flag(with_cp=with_cp)
        self.num_stages = num_stages
        self.block_strides = tuple(4 * 2**i for i in range(num_stages))
        self.out_indices = tuple(out_indices)
        self.out_channels = tuple(stage_dims[i] for i in out_indices)
        self.out_strides = tuple(self.block_strides[i] for i in out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        """Modules and parameters of stage ``index``, counted from 1; 0 is the stem."""
        raise NotImplementedError

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        """The stem, then every block, each with what embeds its input; without output norms."""
        raise NotImplementedError

    def parameters_without_decay(self) -> list[str]:
        """Names of position embeddings, class token, and what the attentions want no decay on."""
        tokens = ('pos_embed', 'cls_token')
        names = [name for name, _ in self.named_parameters() if name.startswith(tokens)]
        for path, module in self.named_modules():
            if isinstance(module, TokenMixer):
                names += [f'{path}.{name}' for name in module.no_decay]
        return names

    def forward_stage(self, index: int, x: Tensor) -> Tensor:
        """Run one stage, the patch embedding or merging before it included.

        Args:
            index: The stage, from 0.
            x: Map of the stage before; images (B, in_channels, H, W) for the first.

        Returns:
            (B, C_i, H_i, W_i), a view of the tokens (B, N, C_i), before any output norm.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of the requested stages.

        Args:
            x: Images (B, in_channels, H, W) of any size.

        Returns:
            For each stage i of ``out_indices`` (B, C_i, ceil(H / s), ceil(W / s)) with
            s = 4 * 2 ** i, contiguous.
        """
        outs = []
        for stage in range(self.out_indices[-1] + 1):
            x = self.forward_stage(stage, x)
            if stage in self.out_indices:
                outs.append(self._output(stage, x).contiguous())
        return tuple(outs)

    def _output(self, index: int, x: Tensor) -> Tensor:
        """What becomes of a stage's map on its way out."""
        return x

    def unused_modules(self) -> list[nn.Module | nn.Parameter]:
        """What no output depends on: the stages after the last requested one."""
        later = range(self.out_indices[-1] + 2, self.num_stages + 1)
        return [part for index in later for part in self.stage_modules(index)]

    def init_weights(self) -> None:
        """Load ``init_cfg=dict(type='Pretrained', checkpoint=...)``, or leave the random weights.

        Raises:
            FileNotFoundError: The checkpoint does not exist.
            ValueError: It does not hold every weight of this backbone except output norms.
        """
        if self.is_init:  # the weights may be trained by now
            print_log(
                f'init_weights of {type(self).__name__} was called again: nothing was done',
                logger='current',
                level=logging.WARNING,
            )
            return
        init_cfg = self.init_cfg
        items = _items(init_cfg)
        pretrained = [item for item in items if _asks_for_pretrained(item)]
        # mmengine's own loader would log what is missing and go on.
        self.init_cfg = [item for item in items if item and item not in pretrained]
        super().init_weights()
        if not pretrained and not self.init_cfg:
            print_log(f'{type(self).__name__}: random weights, as it was built', logger='current')
        self.init_cfg = init_cfg
        for item in pretrained:
            load_pretrained(self, item['checkpoint'], item.get('prefix'))

    def _dump_init_info(self) -> None:
        """A line per parameter, where init_cfg has changed any."""
        if self.init_cfg:
            super()._dump_init_info()

    def train(self, mode: bool = True) -> 'DenseBackbone':
        """Switch the mode; frozen stages stay in eval mode and get no gradient."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        for index in range(self.frozen_stages + 1):
            for part in self.stage_modules(index):
                part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()
        for part in self.unused_modules():
            part.requires_grad_(False)  # DistributedDataParallel would wait for their gradients


class Blocks(nn.ModuleList):
    """The blocks of a stage, called as one: what is hooked to get the map of a stage."""

    def forward(self, x: Tensor, hw_shape: tuple[int, int], with_cp: bool = False) -> Tensor:
        """Run one block after another.

        Args:
            x: Tokens (B, N, C).
            hw_shape: Map size (H, W) in tokens, H * W == N.
            with_cp: Recompute each in the backward pass, while training.

        Returns:
            The map (B, C, H, W), a view of the tokens.
        """
        return self.run(x, hw_shape, with_cp).unflatten(1, hw_shape).permute(0, 3, 1, 2)

    def run(self, x: Tensor, hw_shape: tuple[int, int], with_cp: bool = False) -> Tensor:
        """As :meth:`forward`, but returns the tokens (B, N, C)."""
        for block in self:
            x = self.run_one(block, x, hw_shape, with_cp)
        return x

    def run_one(
        self, block: nn.Module, x: Tensor, hw_shape: tuple[int, int], with_cp: bool = False
    ) -> Tensor:
        """One of the blocks, as :meth:`run`."""
        if with_cp and self.training and x.requires_grad:
            return _recomputed(block, x, hw_shape)
        return block(x, hw_shape)


def _recomputed(block: nn.Module, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Run a block, and again in the backward pass, which is no second step of any BatchNorm."""
    contexts = {}
    if not torch.compiler.is_compiling() and batch_norms(block):
        contexts['context_fn'] = lambda: (nullcontext(), statistics_kept(block))
    return checkpoint(block, x, hw_shape, use_reentrant=False, **contexts)


def _items(init_cfg: object) -> Sequence:
    return init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]


def _is_initialiser(item: object) -> bool:
    return isinstance(item, Mapping) and (not _asks_for_pretrained(item) or 'checkpoint' in item)


def _asks_for_pretrained(init_cfg: Mapping | None) -> bool:
    return bool(init_cfg) and init_cfg.get('type') in ('Pretrained', PretrainedInit)


def drop_path_rates(rate: float, num_blocks: int) -> Iterator[float]:
    """Stochastic depth rates, linear from 0 at the first block to ``rate`` at the last.

    Raises:
        ValueError: ``rate`` is no probability below 1.
    """
    if not (isinstance(rate, Real) and 0 <= rate < 1):
        raise ValueError(f'drop_path_rate={rate!r} must lie in 0..1, 1 excluded')
    return (rate * index / max(num_blocks - 1, 1) for index in range(num_blocks))


def resolve_arch(
    arch: str | Mapping,
    zoo: Mapping[str, Mapping],
    aliases: Mapping,
    single: Sequence[str] = (),
    either: Sequence[str] = (),
) -> dict:
    """Settings of an architecture, by name, alias, or as a dict.

    A dict has embed_dims, depths, num_heads and mlp_ratios, and may have softmax_heads.

    Args:
        arch: Name, alias or dict.
        zoo: Settings by name.
        aliases: Names by alias.
        single: Keys that take one number; the others take one per stage.
        either: Keys that take one number or one per stage.

    Raises:
        ValueError: Unknown name, unknown key, missing key, a number where a tuple belongs, a
            number that is not positive, or per-stage tuples whose lengths differ; the message
            lists what exists.
    """
    if isinstance(arch, str):
        return dict(zoo[aliases.get(arch) or one_of('arch', arch, [*zoo, *aliases])])
    if not isinstance(arch, Mapping):
        raise ValueError(f'arch={arch!r} is neither a name nor a dict')
    required = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')
    for key in arch:
        one_of('arch key', key, [*required, 'softmax_heads'])
    missing = [key for key in required if key not in arch]
    if missing:
        raise ValueError(f'arch lacks {", ".join(missing)}; it needs {", ".join(required)}')
    for key, value in arch.items():
        if key not in either and isinstance(value, Sequence) == (key in single):
            kind = 'one number' if key in single else 'one number per stage'
            raise ValueError(f'arch {key}={value} must be {kind}')
        check_positive(**{f'arch {key}': value})
        if key != 'mlp_ratios':
            numbers = value if isinstance(value, Sequence) else (value,)
            check_whole(**{f'arch {key}[{index}]': n for index, n in enumerate(numbers)})
    lengths = {key: len(value) for key, value in arch.items() if isinstance(value, Sequence)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f'arch has per-stage tuples of different lengths: {lengths}')
    return dict(arch)


def per_stage(value: float | Sequence[float], num_stages: int) -> Sequence[float]:
    """One number for all stages, or one each, as one each."""
    return value if isinstance(value, Sequence) else (value,) * num_stages


def channel_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise the channels of a map (B, C, H, W)."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def choose_attention(
    attention: AttentionSpec,
    depths: Sequence[int],
    kernel: str | None,
    inline_window_size: int | None,
) -> list[tuple]:
    """The attention of every block, with the backbones' older keywords as options of ``'inline'``.

    Raises:
        ValueError: As :func:`.resolve_attention`.
    """
    stages = resolve_attention(attention, depths)
    given = {'kernel': kernel, 'window_size': inline_window_size}
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return stages

    def with_given(choice: str | Mapping) -> str | Mapping:
        options = as_options(choice)
        return choice if options['type'] != 'inline' else {**options, **given}

    stages = [tuple(map(with_given, choices)) for choices in stages]
    warnings.warn(
        "kernel= and inline_window_size= are options of attention 'inline' and will go; "
        f'write attention={shortest_attention(stages)!r}',
        FutureWarning,
        stacklevel=4,
    )
    return stages


def build_blocks(
    choices: Sequence,
    site: Site,
    mlp_ratio: float,
    drop_rates: Iterator[float],
    norm_eps: float,
) -> Blocks:
    """The blocks of a stage.

    Args:
        choices: The attention of each.
        site: What they have in common.
        mlp_ratio: Hidden channels of the MLPs over C.
        drop_rates: Stochastic depth rates; one a block is taken.
        norm_eps: Epsilon of the LayerNorms.
    """
    return Blocks(
        Block(
            site.dim,
            build_token_mixer(choice, replace(site, shift=index % 2 == 1)),
            mlp_ratio,
            next(drop_rates),
            norm_eps,
        )
        for index, choice in enumerate(choices)
    )


def pretrain_grids(size: int | Sequence[int], patch_sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Map size (H, W) in tokens of each stage at the size of pretraining.

    Args:
        size: Image (H, W) in pixels, or its side.
        patch_sizes: Stride of each stage over the one before.

    Raises:
        ValueError: It is smaller than a token of the last stage.
    """
    size = (size, size) if is_whole(size) else size
    strides = list(accumulate(patch_sizes, int.__mul__))
    sides = size if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(map(is_whole, sides)) or min(sides) < strides[-1]:
        raise ValueError(
            f'pretrain_img_size={size} must be (H, W) in pixels, each at least {strides[-1]}'
        )
    return [tuple(side // stride for side in sides) for stride in strides]

"""What both backbones share: arch zoo look-up, frozen stages, checkpointing, pretrained weights."""

from collections.abc import Iterator, Mapping, Sequence

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import Block, MixerContext, build_token_mixer
from ..layers.init import trunc_normal_
from ..utils import check_keywords, check_positive, one_of
from .pretrained import load_pretrained

AttentionSpec = str | Sequence[str | Sequence[str]]


class DenseBackbone(BaseModule):
    """A four-stage backbone that returns one map per requested stage.

    Subclasses list the modules of their stem and stages in :meth:`stage_modules`.

    Attributes:
        out_channels: Channels of each output, in the order of ``out_indices``.
        out_strides: Stride in pixels of each output.
    """

    def __new__(cls, *args: object, **kwargs: object) -> 'DenseBackbone':
        # Python's own message for an unknown keyword does not list the known ones.
        check_keywords(cls, kwargs)
        return super().__new__(cls)

    def __init__(
        self,
        stage_dims: Sequence[int],
        *,
        out_indices: Sequence[int],
        frozen_stages: int,
        with_cp: bool,
        init_cfg: dict | list | None,
    ) -> None:
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
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(f'frozen_stages={frozen_stages} must lie in -1..{num_stages}')
        self.num_stages = num_stages
        self.out_indices = tuple(out_indices)
        self.out_channels = tuple(stage_dims[i] for i in out_indices)
        self.out_strides = tuple(4 * 2**i for i in out_indices)
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

    def stage_modules(self, index: int) -> list[nn.Module | nn.Parameter]:
        """Modules and parameters of stage ``index``, counted from 1; 0 is the stem."""
        raise NotImplementedError

    def layers_in_order(self) -> list[list[nn.Module | nn.Parameter]]:
        """The stem, then every block, each with what embeds its input; without output norms."""
        raise NotImplementedError

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
        init_cfg = self.init_cfg
        items = init_cfg if isinstance(init_cfg, list) else [init_cfg]
        pretrained = [item for item in items if _asks_for_pretrained(item)]
        # mmengine's own loader would log what is missing and go on.
        self.init_cfg = [item for item in items if item and item not in pretrained]
        super().init_weights()
        self.init_cfg = init_cfg
        for item in pretrained:
            load_pretrained(self, item['checkpoint'], item.get('prefix'))

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

    def _run_block(self, block: Block, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        if self.with_cp and self.training and x.requires_grad:
            return checkpoint(block, x, hw_shape, use_reentrant=False)
        return block(x, hw_shape)


def _asks_for_pretrained(init_cfg: Mapping | None) -> bool:
    return bool(init_cfg) and init_cfg.get('type') in ('Pretrained', PretrainedInit)


def drop_path_rates(rate: float, num_blocks: int) -> Iterator[float]:
    """Stochastic depth rates, linear from 0 at the first block to ``rate`` at the last.

    Raises:
        ValueError: ``rate`` is no probability below 1.
    """
    if not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate={rate} must lie in 0..1, 1 excluded')
    return (rate * index / max(num_blocks - 1, 1) for index in range(num_blocks))


def resolve_arch(
    arch: str | Mapping,
    zoo: Mapping[str, Mapping],
    aliases: Mapping,
    single: Sequence[str] = (),
    either: Sequence[str] = (),
) -> dict:
    """Settings of an architecture, by name, alias, or as a dict with exactly the zoo's keys.

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
    required = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')
    for key in arch:
        one_of('arch key', key, required)
    missing = [key for key in required if key not in arch]
    if missing:
        raise ValueError(f'arch lacks {", ".join(missing)}; it needs {", ".join(required)}')
    for key, value in arch.items():
        if key not in either and isinstance(value, Sequence) == (key in single):
            kind = 'one number' if key in single else 'one number per stage'
            raise ValueError(f'arch {key}={value} must be {kind}')
        check_positive(**{f'arch {key}': value})
    lengths = {key: len(value) for key, value in arch.items() if isinstance(value, Sequence)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f'arch has per-stage tuples of different lengths: {lengths}')
    return dict(arch)


def resolve_attention(attention: AttentionSpec, depths: Sequence[int]) -> list[tuple[str, ...]]:
    """Token mixer names of every block, stage by stage.

    Args:
        attention: One name for all, a name per stage, or for a mixed stage a name per block.
        depths: Blocks per stage.

    Raises:
        ValueError: The number of stages or blocks does not fit.
    """
    if isinstance(attention, str):
        attention = (attention,) * len(depths)
    if len(attention) != len(depths):
        raise ValueError(f'attention has {len(attention)} stages, depths has {len(depths)}')
    stages = []
    for stage, (names, depth) in enumerate(zip(attention, depths, strict=True)):
        names = (names,) * depth if isinstance(names, str) else tuple(names)
        if len(names) != depth:
            raise ValueError(f'attention[{stage}] names {len(names)} blocks, the stage has {depth}')
        stages.append(names)
    return stages


def build_block(
    name: str, context: MixerContext, mlp_ratio: float, drop_path: float, norm_eps: float
) -> Block:
    """One block around the token mixer called ``name``."""
    mixer = build_token_mixer(name, context)
    return Block(context.dim, mixer, mlp_ratio, drop_path, norm_eps)


def init_linear_and_norm(module: nn.Module) -> None:
    """Truncated normal (std 0.02) linear weights, zero biases; LayerNorm stays at identity."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""Parameters, multiply-accumulates and activations of a config, as published tables count them.

The model is built and run on the meta device: shapes only, no weights, no arithmetic. Convolutions
and matrix products are counted where they run. Token mixers are counted by their definition, by a
rule per class in :data:`MIXER_RULES`, whatever algebra computes them.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..engine.model import errors_of_build, image_channels
from ..mixers import InLineAttention, SpatialReductionAttention, WindowAttention
from ..ops import padded_shape
from ..utils import UserError, one_line

# (H, W) in pixels of the image that published tables count with.
DEFAULT_SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048)}
NUM_BOXES = 1000
NUM_MASKS = 100
CONVENTION = (
    'FLOPs are multiply-accumulates, for one image, of convolutions (transposed ones: per input '
    'element), of linear layers and of attention products. Softmax attention: 2 N M C for N '
    'queries and M keys of C channels; windows are those of the padded map. InLine attention: '
    '2 N C d + 10 N C for heads of width d, beside its projections; by its definition, whatever '
    'form computes it. Norms, activation functions, softmax, interpolation and pooling are not '
    f'counted. Detectors: {NUM_BOXES} boxes and {NUM_MASKS} masks, in every stage of a cascade. '
    'Auxiliary heads count as parameters only. Activations are the elements that the counted '
    'convolutions and linear layers put out.'
)


@dataclass(frozen=True)
class Cost:
    """What a part of a model costs for one image.

    Attributes:
        flops: Multiply-accumulates.
        params: Parameters.
        activations: Elements put out by convolutions and linear layers.
    """

    flops: int = 0
    params: int = 0
    activations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.params + other.params,
            self.activations + other.activations,
        )


# Token mixers ------------------------------------------------------------------------------------


def _inline_attention(mixer: InLineAttention, x: Tensor, hw_shape: tuple[int, int]) -> Cost:
    tokens, maps = _tokens_and_maps(x, hw_shape, mixer.window_size)
    dim, head_dim = mixer.dim, mixer.dim // mixer.num_heads
    projections = 4 * tokens * dim**2
    # K^T V and its product with Q; 9 N C for the local residual and N C for the means.
    products = 2 * tokens * dim * head_dim + 10 * tokens * dim
    # The 3x3 kernels come from two convolutions over one token, C to C and C to 9 C, per head.
    kernels = maps * (dim + 9 * dim) * head_dim
    outputs = (4 + 1) * tokens * dim + maps * (dim + 9 * dim)
    return Cost(flops=projections + products + kernels, activations=outputs)


def _window_attention(mixer: WindowAttention, x: Tensor, hw_shape: tuple[int, int]) -> Cost:
    tokens, _ = _tokens_and_maps(x, hw_shape, mixer.window_size)
    dim = x.shape[2]
    projections = 4 * tokens * dim**2
    products = 2 * tokens * mixer.window_size**2 * dim
    return Cost(flops=projections + products, activations=4 * tokens * dim)


def _spatial_reduction_attention(
    mixer: SpatialReductionAttention, x: Tensor, hw_shape: tuple[int, int]
) -> Cost:
    batch, tokens, dim = x.shape
    ratio = mixer.sr_ratio
    keys = max(hw_shape[0] // ratio, 1) * max(hw_shape[1] // ratio, 1)
    projections = 2 * tokens * dim**2 + 2 * keys * dim**2
    products = 2 * tokens * keys * dim
    reduction, reduced = (keys * ratio**2 * dim**2, keys * dim) if ratio > 1 else (0, 0)
    return Cost(
        flops=batch * (projections + products + reduction),
        activations=batch * (2 * tokens * dim + 2 * keys * dim + reduced),
    )


# A rule takes the mixer and the arguments of its forward. One more mixer: one more line.
MIXER_RULES: dict[type[nn.Module], Callable[..., Cost]] = {
    InLineAttention: _inline_attention,
    WindowAttention: _window_attention,
    SpatialReductionAttention: _spatial_reduction_attention,
}


def _tokens_and_maps(
    x: Tensor, hw_shape: tuple[int, int], window_size: int | None
) -> tuple[int, int]:
    """Tokens attended, padding included, and the maps or windows that they lie in."""
    if window_size is None:
        return x.shape[0] * x.shape[1], x.shape[0]
    height, width = padded_shape(hw_shape, window_size)
    tokens = x.shape[0] * height * width
    return tokens, tokens // window_size**2


# Everything else ---------------------------------------------------------------------------------


def _convolution(out: Tensor, image: Tensor, weight: Tensor, *settings: object) -> int:
    transposed = settings[4]  # after bias, stride, padding and dilation
    return (image if transposed else out).numel() * weight[0].numel()


def _product(out: Tensor, *factors: Tensor) -> int:
    return out.numel() * factors[-1].shape[-2]


_MULTIPLY_ACCUMULATES: dict[object, Callable[..., int]] = {
    torch.ops.aten.convolution: _convolution,
    torch.ops.aten.mm: _product,
    torch.ops.aten.bmm: _product,
    torch.ops.aten.addmm: _product,
    torch.ops.aten.baddbmm: _product,
}
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class _Counter(TorchDispatchMode):
    """Adds up what runs, under the name of the innermost module that runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.entered = {''}
        self._running = ['']
        self._mixer: str | None = None  # nothing inside it is counted a second time

    def enter(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook of the module called ``name``."""
        self.entered.add(name)
        self._running.append(name)
        if self._mixer is None and type(module) in MIXER_RULES:
            self._mixer = name
            self.costs[name] += MIXER_RULES[type(module)](module, *args, **kwargs)

    def leave(self, name: str, module: nn.Module, args: tuple, out: object) -> None:
        """Forward hook of the module called ``name``."""
        self._running.pop()
        if self._mixer == name:
            self._mixer = None
        elif self._mixer is None and isinstance(module, _LAYERS):
            self.costs[name] += Cost(activations=out.numel())

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        formula = _MULTIPLY_ACCUMULATES.get(func.overloadpacket)
        if formula and self._mixer is None:
            self.costs[self._running[-1]] += Cost(flops=formula(out, *args))
        return out


class _MetaWeights(TorchFunctionMode):
    """Makes parameters and buffers on the meta device.

    ``torch.device('meta')`` would also take the small tensors that constructors read numbers from,
    such as the usual ``torch.linspace(0, drop_path_rate, depth)``.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs['device'] = kwargs.get('device') or 'meta'
        return func(*args, **kwargs)


# Models ------------------------------------------------------------------------------------------


def count_config(cfg: Config, shape: tuple[int, int] | None = None) -> dict[str, Cost]:
    """Count a detector or a segmentor by :data:`CONVENTION`.

    Args:
        cfg: The config; neither its data nor its pretrained weights are needed.
        shape: Image (H, W) in pixels; by default what published tables take for the task.

    Returns:
        As :func:`count_model`.

    Raises:
        UserError: The model does not build, or has parts that this does not know how to run.
    """
    scope = cfg.get('default_scope')
    if scope not in DEFAULT_SHAPES or 'model' not in cfg:
        raise UserError('the config has no model of mmdet or mmseg (model, default_scope)')
    model = build_meta(cfg.model, scope)
    run = {'mmdet': _run_detector, 'mmseg': _run_segmentor}[scope]
    image = _image(shape or DEFAULT_SHAPES[scope], image_channels(cfg.model))
    return count_model(model, partial(run, image=image))


def count_backbone(backbone: nn.Module, shape: tuple[int, int], channels: int = 3) -> Cost:
    """Count a backbone alone, on an image of (H, W) pixels; it comes from :func:`build_meta`."""
    return count_model(backbone, lambda model: model(_image(shape, channels)))['']


def build_meta(settings: Mapping, scope: str) -> nn.Module:
    """Build a model without memory for its weights, in eval mode.

    Raises:
        UserError: It does not build.
    """
    scoped = DefaultScope.overwrite_default_scope(scope)
    with errors_of_build(), scoped, _MetaWeights(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model = MODELS.build(settings).to('meta')
    model.eval()  # not chained: many backbones' own train() returns nothing
    return model


def count_model(model: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, Cost]:
    """Cost of every module of a model, each with all that lies below it.

    Args:
        model: In eval mode; on the meta device where arithmetic is not wanted.
        run: Calls the model, or its parts one after the other.

    Returns:
        By qualified name, in the order of ``named_modules``; ``''`` is the whole model. What lies
        inside a token mixer has parameters only.

    Raises:
        UserError: ``run`` fails, or leaves out a part that has parameters.
    """
    counter = _Counter()
    handles = []
    modules = dict(model.named_modules())
    mixers = {name for name, module in modules.items() if type(module) in MIXER_RULES}
    for name, module in modules.items():
        if not mixers.isdisjoint(_ancestors(name)):
            continue  # counted by a rule; hooks there would change what runs
        enter, leave = partial(counter.enter, name), partial(counter.leave, name)
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), counter:
            run(model)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'the model does not run: {one_line(error)}') from error
    finally:
        for handle in handles:
            handle.remove()
    _check_all_ran(model, counter)

    costs = counter.costs
    for name, parameter in model.named_parameters():
        costs[_parent(name)] += Cost(params=parameter.numel())
    totals = {name: Cost() for name, _ in model.named_modules()}
    for name, cost in costs.items():
        totals[''] += cost
        while name:
            totals[name] += cost
            name = _parent(name)
    return totals


def _run_detector(model: nn.Module, image: Tensor) -> None:
    maps = _run_backbone(model, image)
    if not getattr(model, 'with_rpn', False):  # single-stage
        model.bbox_head(maps)
        return
    model.rpn_head(maps)
    # RoIAlign and NMS need numbers: the heads get as many regions as the convention says.
    for part, count in (('bbox', NUM_BOXES), ('mask', NUM_MASKS)):
        if not getattr(model.roi_head, f'with_{part}'):
            continue
        heads, extractors = (
            list(modules) if isinstance(modules, nn.ModuleList) else [modules]
            for modules in (
                getattr(model.roi_head, f'{part}_head'),
                getattr(model.roi_head, f'{part}_roi_extractor'),
            )
        )
        for head, extractor in zip(heads, extractors, strict=True):
            size = extractor.roi_layers[0].output_size
            head(torch.empty(count, extractor.out_channels, *size, device='meta'))


def _run_segmentor(model: nn.Module, image: Tensor) -> None:
    model.decode_head(_run_backbone(model, image))


def _run_backbone(model: nn.Module, image: Tensor) -> object:
    maps = model.backbone(image)
    return model.neck(maps) if model.with_neck else maps


def _check_all_ran(model: nn.Module, counter: _Counter) -> None:
    for name, _ in model.named_parameters():
        owner = _parent(name)
        # Some modules, such as attentions, compute with the weights of what is below them.
        used_above = any(above in counter.costs for above in _ancestors(owner))
        if not (owner in counter.entered or used_above or owner.startswith('auxiliary_head')):
            raise UserError(f'cannot count this model: {owner} was not run')


def _image(shape: tuple[int, int], channels: int) -> Tensor:
    return torch.empty(1, channels, *shape, device='meta')


def _parent(name: str) -> str:
    return name.rpartition('.')[0]


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = _parent(name)
        yield name

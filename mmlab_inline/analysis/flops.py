"""Parameters, multiply-accumulates and activations of a config, as published tables count them.

The model is built and run on the meta device: shapes only, no weights, no arithmetic. Convolutions
and matrix products are counted where they run. There, attentions run by their definition, whatever
algebra computes them elsewhere.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..engine.model import build_model, image_channels
from ..utils import UserError, one_line

# (H, W) in pixels of the image that published tables count with.
DEFAULT_SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048)}
NUM_BOXES = 1000
NUM_MASKS = 100
CONVENTION = (
    'FLOPs are multiply-accumulates, for one image, of convolutions (transposed ones: per input '
    'element), of linear layers and of attention products. Softmax attention: 2 N M C for N '
    'queries and M keys of C channels; windows are those of the padded map. Linear attention: '
    '2 N C d for heads of width d, 9 N C more where it has a local residual, beside its '
    'projections; by its definition, whatever form computes it. Norms, activation functions, '
    'softmax, means, interpolation and pooling are not counted. '
    f'Detectors: {NUM_BOXES} boxes and {NUM_MASKS} masks, in every stage of a cascade. '
    'Auxiliary heads count as parameters only. Activations are the elements that the counted '
    "convolutions, a local residual's too, and linear layers put out."
)


class DoesNotRunError(UserError):
    """The parts of a model do not fit together."""


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


# What runs ---------------------------------------------------------------------------------------


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


class _Counter(TorchDispatchMode):
    """Adds up what runs, under the name of the innermost module that runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)
        self.entered = {''}
        self._running = ['']

    def enter(self, name: str, module: nn.Module, args: tuple) -> None:
        """Forward pre-hook of the module called ``name``."""
        self.entered.add(name)
        self._running.append(name)

    def leave(self, name: str, module: nn.Module, args: tuple, out: object) -> None:
        """Forward hook of the module called ``name``."""
        self._running.pop()
        if isinstance(module, nn.Linear):
            self.costs[name] += Cost(activations=out.numel())

    def __torch_dispatch__(
        self, func: Callable, types: Sequence, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        formula = _MULTIPLY_ACCUMULATES.get(func.overloadpacket)
        if formula:
            activations = out.numel() if formula is _convolution else 0
            self.costs[self._running[-1]] += Cost(formula(out, *args), activations=activations)
        return out


# What calls raise that do not fit the part, as those of another kind of head, and missing ops.
_NOT_KNOWN = (TypeError, AttributeError, NotImplementedError)

# Models ------------------------------------------------------------------------------------------

build_meta = partial(build_model, device='meta')  # no memory for weights


def count_config(cfg: Config, shape: tuple[int, int] | None = None) -> dict[str, Cost]:
    """Count a detector or a segmentor by :data:`CONVENTION`.

    Args:
        cfg: The config; neither its data nor its pretrained weights are needed.
        shape: Image (H, W) in pixels; by default what published tables take for the task.

    Returns:
        As :func:`count_model`.

    Raises:
        DoesNotRunError: The model builds, but does not run.
        UserError: It does not build, or has parts that this does not know how to run.
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


def count_model(model: nn.Module, run: Callable[[nn.Module], object]) -> dict[str, Cost]:
    """Cost of every module of a model, each with all that lies below it.

    Args:
        model: In eval mode; on the meta device where arithmetic is not wanted.
        run: Calls the model, or its parts one after the other.

    Returns:
        By qualified name, in the order of ``named_modules``; ``''`` is the whole model.

    Raises:
        DoesNotRunError: ``run`` fails in the model.
        UserError: ``run`` does not know how to call it, what is called has no form on the meta
            device, or a part that has parameters is left out.
    """
    counter = _Counter()
    handles = []
    modules = dict(model.named_modules())
    for name, module in modules.items():
        enter, leave = partial(counter.enter, name), partial(counter.leave, name)
        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), counter:
            run(model)
    except UserError:
        raise
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, _NOT_KNOWN) or re.search(r'\bmeta\b', str(error)):
            raise UserError(f'cannot count this model: {reason}') from error
        raise DoesNotRunError(f'the model does not run: {reason}') from error
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
    if getattr(model.roi_head, 'with_shared_head', False):
        raise UserError('cannot count this model: its RoI heads have a part in common')
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

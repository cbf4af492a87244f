"""A model as a graph for any batch, height and width, and the files that hold it.

What would bake the example's size in is replaced first: adaptive pooling by matrix products,
mmseg's Upsample by one that keeps integers. Attention, windows and position embeddings choose
forms without a branch on the size themselves while an export is traced.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import Tensor, nn

from ..choices import EXPORT_FORMATS
from ..datasets.checks import innermost_datasets
from ..datasets.checks.settings import transforms
from ..engine.model import build_model, image_channels, load_weights
from ..utils import UserError, one_line
from ..version import __version__
from .boxes import check_boxes, find_boxes

# (B, H, W) of the example that is traced: several windows in every stage of InLine-Swin.
EXAMPLE_SHAPE = (2, 480, 608)
# (B, H, W) that an export is compared at: landscape, portrait, and sides that 32 does not divide.
CHECK_SHAPES = ((1, 96, 160), (2, 256, 192), (1, 203, 149))
TOLERANCE = 1e-4
_MEMBERS = {2: ('cls', 'bbox'), 3: ('cls', 'bbox', 'centerness')}


class MatrixAdaptiveAvgPool2d(nn.Module):
    """Adaptive average pooling as two matrix products, for maps of any size in one graph.

    Bin i of n over L pixels averages floor(i L / n) to ceil((i + 1) L / n), as
    ``nn.AdaptiveAvgPool2d`` does.

    Args:
        output_size: Bins (rows, columns), or one number for both.
    """

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        is_pair = isinstance(output_size, tuple | list)
        self.output_size = tuple(output_size) if is_pair else (output_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, rows, columns)."""
        rows, cols = (
            _pooling_matrix(bins, length, x)
            for bins, length in zip(self.output_size, x.shape[2:], strict=True)
        )
        return rows @ x @ cols.T


def _pooling_matrix(bins: int, length: int, like: Tensor) -> Tensor:
    """Weights (bins, length) of adaptive average pooling along one axis."""
    index = torch.arange(bins, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)[None]
    start, end = index * length // bins, ((index + 1) * length + bins - 1) // bins
    inside = ((pixel >= start) & (pixel < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


class IntegerUpsample(nn.Module):
    """Bilinear upsampling by an integer; mmseg's goes through floats, which fixes the size.

    Args:
        factor: Scale of both sides.
        mode: As ``F.interpolate`` has it.
        align_corners: As ``F.interpolate`` has it.
    """

    def __init__(self, factor: int, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.factor, self.mode, self.align_corners = factor, mode, align_corners

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, factor * H, factor * W)."""
        size = [side * self.factor for side in x.shape[2:]]
        return F.interpolate(x, size, mode=self.mode, align_corners=self.align_corners)


class ExportModule(nn.Module):
    """From an image to the named outputs of a backbone, segmentor or detector.

    Args:
        model: The built model; changed in place.
        part: ``'model'`` or ``'backbone'``.
        preprocess: Normalise and pad in the graph, as the model's data preprocessor does.
        label_map: Put out a segmentor's classes instead of logits.
        in_channels: Of the image.
        boxes: Put out a detector's boxes, of one image, instead of maps.

    Raises:
        UserError: A kind of model that is not supported, or an option that does not fit it.
    """

    def __init__(
        self,
        model: nn.Module,
        part: str = 'model',
        preprocess: bool = True,
        label_map: bool = False,
        in_channels: int = 3,
        boxes: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.kind = 'backbone' if part == 'backbone' else _kind(model)
        self.label_map = label_map
        if label_map and (self.kind != 'segmentor' or model.decode_head.out_channels == 1):
            raise UserError('--label-map is for segmentors with a channel per class')
        self.boxes = boxes
        if boxes and self.kind not in ('two-stage', 'dense'):
            raise UserError('--boxes is for whole detectors')
        if boxes:
            check_boxes(model, self.kind)
        processor = model.data_preprocessor
        # mmdet pads by one setting; mmseg, when it tests, by another.
        test_cfg = getattr(processor, 'test_cfg', None) or {}
        if test_cfg.get('size'):
            raise UserError('data_preprocessor.test_cfg.size is not supported: images of any size')
        self.divisor = test_cfg.get('size_divisor') or getattr(processor, 'pad_size_divisor', 1)
        self.pad_value = getattr(processor, 'pad_value', getattr(processor, 'pad_val', 0))
        if not preprocess:
            self.divisor = 1
        self.preprocess = preprocess
        if preprocess and processor._enable_normalize:
            self.register_buffer('mean', processor.mean.clone().view(-1, 1, 1))
            self.register_buffer('std', processor.std.clone().view(-1, 1, 1))
        self.model = model
        for name, module in list(model.named_modules()):
            replacement = _replacement(module)
            if replacement is not None:
                model.set_submodule(name, replacement)
        self.eval()

    def named_outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Outputs by name.

        Args:
            image: (B, C, H, W), in the channel order that the metadata tells; 0 to 255, or
                normalised where ``preprocess`` is off.
        """
        whole, (height, width) = image, image.shape[2:]
        if self.preprocess:
            image = self._preprocess(image)
        if self.kind == 'backbone':
            return _numbered('map', self.model.backbone(image))
        maps = self.model.extract_feat(image)
        if self.kind == 'segmentor':
            head = self.model.decode_head
            logits = F.interpolate(
                head(maps), image.shape[2:], mode='bilinear', align_corners=head.align_corners
            )[:, :, :height, :width]
            return {'labels': logits.argmax(1)} if self.label_map else {'logits': logits}
        if self.boxes:
            return find_boxes(self.model, self.kind, maps, whole)
        if self.kind == 'two-stage':
            classes, boxes = self.model.rpn_head(maps)
            return {
                **_numbered('feat', maps),
                **_numbered('rpn_cls', classes),
                **_numbered('rpn_bbox', boxes),
            }
        members = self.model.bbox_head(maps)
        if not isinstance(members, tuple) or len(members) not in _MEMBERS:
            raise UserError(f'{type(self.model.bbox_head).__name__}: its outputs are not supported')
        outputs = {}
        for name, levels in zip(_MEMBERS[len(members)], members, strict=True):
            outputs |= _numbered(name, levels)
        return outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of :meth:`named_outputs`."""
        return tuple(self.named_outputs(image).values())

    def _preprocess(self, image: Tensor) -> Tensor:
        if hasattr(self, 'mean'):
            image = (image - self.mean) / self.std
        if self.divisor > 1:
            height, width = image.shape[2:]
            up = self.divisor - 1
            pad_h = (height + up) // self.divisor * self.divisor - height
            pad_w = (width + up) // self.divisor * self.divisor - width
            image = F.pad(image, (0, pad_w, 0, pad_h), value=self.pad_value)
        return image


def check_packages(file_format: str) -> None:
    """Check that what exporting needs is there.

    Raises:
        UserError: An ONNX package is missing.
    """
    for name in ('onnx', 'onnxscript', 'onnxruntime') if file_format == 'onnx' else ():
        try:
            import_module(name)
        except ImportError:
            raise UserError(f"{name} is missing; pip install 'mmlab-inline[export]'") from None


def build_export_module(
    cfg: Config,
    checkpoint: str,
    part: str,
    preprocess: bool,
    label_map: bool,
    boxes: bool = False,
) -> tuple[ExportModule, dict[str, str]]:
    """The module to export, with its weights, and what a user of the file must know.

    Raises:
        UserError: The model does not build, is not supported, or the checkpoint does not fit.
    """
    if 'model' not in cfg:
        raise UserError('the config has no model')
    model = build_model(cfg.model, cfg.get('default_scope', 'mmengine'))
    classes = _class_names(cfg, load_weights(model, checkpoint))
    if not hasattr(model, 'backbone'):
        raise UserError(f'{type(model).__name__} is not supported: it has no backbone')
    channels = image_channels(cfg.model)
    module = ExportModule(model, part, preprocess, label_map, channels, boxes)
    try:
        with torch.no_grad():
            outputs = module.named_outputs(torch.zeros(1, channels, 64, 64))
    except RuntimeError as error:
        raise UserError(
            f'the model does not run on an image of {channels} channels: {one_line(error)}'
        ) from error
    processor = model.data_preprocessor
    # Upstream's mmseg calls it by the second name.
    swaps_channels = any(
        getattr(processor, name, False) for name in ('_channel_conversion', 'channel_conversion')
    )
    metadata = dict(
        producer=f'mmlab-inline {__version__}',
        kind=module.kind,
        input=f'image: float32 ({"1" if boxes else "batch"}, {channels}, height, width)',
        channel_order='as loaded' if channels != 3 else 'RGB' if swaps_channels else 'BGR',
        values='0 to 255' if preprocess else '(0 to 255 - mean) / std',
        mean=getattr(processor, 'mean', torch.zeros(0)).flatten().tolist(),
        std=getattr(processor, 'std', torch.zeros(0)).flatten().tolist(),
        normalised_inside=preprocess,
        padded_inside_to_multiple_of=module.divisor,
        size_divisor=getattr(processor, 'pad_size_divisor', 1),
        **_image_scale(cfg),
        outputs=list(outputs),
        classes=classes,
    )
    head = None if boxes else {'two-stage': 'rpn_head', 'dense': 'bbox_head'}.get(module.kind)
    for key in ('anchor_generator', 'bbox_coder') if head else ():
        if key in cfg.model[head]:
            metadata[key] = cfg.model[head][key].to_dict()
    return module, {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }


def export_program(module: ExportModule) -> torch.export.ExportedProgram:
    """Trace a module for any batch, height and width.

    Raises:
        UserError: The model fixes a size.
    """
    from torch.fx.experimental import _config

    batch, height, width = EXAMPLE_SHAPE
    dynamic = torch.export.Dim.DYNAMIC
    if callable(dynamic):  # PyTorch 2.7 takes no bounds
        dynamic = dynamic(min=1)
    sizes = {0: dynamic, 2: dynamic, 3: dynamic}
    if module.boxes:
        batch = sizes[0] = 1
    try:
        # Sizes of the example are then no grounds to tell whether a size is one or a view fits.
        with torch.no_grad(), _config.patch(backed_size_oblivious=True):
            program = torch.export.export(
                module,
                (torch.zeros(batch, module.in_channels, height, width),),
                dynamic_shapes=(sizes,),
                strict=False,
            )
    except Exception as error:
        raise UserError(
            f'this model does not export for images of any size: {one_line(error)}'
        ) from error
    # They pin how the example's tensors lie in memory, which no result depends on; a loaded program
    # would refuse a batch of one for them.
    program._guards_code = []
    return program


def save_program(
    program: torch.export.ExportedProgram, metadata: Mapping[str, str], path: Path
) -> None:
    """Write a ``.pt2`` file; the metadata lie in it as ``metadata.json``."""
    torch.export.save(program, path, extra_files={'metadata.json': json.dumps(dict(metadata))})


def save_onnx(
    program: torch.export.ExportedProgram, metadata: Mapping[str, str], path: Path
) -> None:
    """Write an ONNX file with named outputs, sizes and ``metadata_props``.

    Raises:
        UserError: An operator has no translation.
    """
    import onnx

    logging.getLogger('onnxscript').setLevel(logging.ERROR)
    names = json.loads(metadata['outputs'])
    try:
        exported = torch.onnx.export(
            program, (), input_names=['image'], output_names=names, dynamo=True, verbose=False
        )
    except Exception as error:
        # The error itself is advice to PyTorch's developers, its cause names the operator.
        reason = one_line(error.__cause__ or error)
        raise UserError(f'no ONNX of this model: {reason}') from error
    model = exported.model_proto
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    places = (0, 'batch'), (2, 'height'), (3, 'width')
    symbols = {dims[i].dim_param: name for i, name in places if dims[i].dim_param}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            for symbol, name in symbols.items():
                if dim.dim_param:
                    dim.dim_param = dim.dim_param.replace(symbol, name)
    onnx.save(model, path)


def load_export(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """A function that runs an exported file on an image (B, C, H, W)."""
    if path.suffix == EXPORT_FORMATS['torch']:
        module = torch.export.load(path).module()
        return lambda image: list(module(image))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda image: [
        torch.from_numpy(np.asarray(out)) for out in session.run(None, {'image': image.numpy()})
    ]


def compare_export(
    module: ExportModule, run: Callable[[Tensor], list[Tensor]]
) -> dict[tuple[int, int, int], float]:
    """Compare an exported file with the model that it comes from.

    Args:
        module: What was exported.
        run: The file, by :func:`load_export`.

    Returns:
        For each (B, H, W) of :data:`CHECK_SHAPES` the largest difference of any output relative to
        that output's largest magnitude; for label maps, the share of pixels that differ; for boxes,
        the largest distance of one of them to the nearest of the other side, in box or score.
    """
    errors = {}
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in CHECK_SHAPES:
        batch = 1 if module.boxes else batch
        image = 255 * torch.rand(batch, module.in_channels, height, width, generator=generator)
        with torch.no_grad():
            actual, expected = run(image), module(image)
        if module.boxes:
            error = _difference_of_found(actual, expected, max(height, width))
        else:
            error = max(map(_difference, actual, expected))
        errors[batch, height, width] = error
    return errors


def _difference_of_found(actual: Sequence[Tensor], expected: Sequence[Tensor], side: int) -> float:
    """In whatever order they are: boxes as parts of the image's side, scores, labels."""
    tables = [
        torch.cat([boxes / side, scores[:, None], labels[:, None]], 1)
        for boxes, scores, labels in (actual, expected)
    ]
    if not all(map(len, tables)):
        return math.inf if any(map(len, tables)) else 0.0
    distances = torch.cdist(*tables, p=math.inf)
    return max(distances.amin(side).max().item() for side in (0, 1))


def _difference(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return math.inf
    if not expected.is_floating_point():
        return (actual != expected).float().mean().item()
    scale = expected.abs().max().item()
    return (actual - expected).abs().max().item() / (scale or 1.0)


def _kind(model: nn.Module) -> str:
    """What a whole model is, of the kinds that are supported."""
    name = type(model).__name__
    if hasattr(model, 'decode_head') and not isinstance(model.decode_head, nn.ModuleList):
        if hasattr(model.decode_head, 'predict_by_feat') and hasattr(model.decode_head, 'cls_seg'):
            return 'segmentor'
    elif hasattr(model, 'rpn_head') and hasattr(model, 'roi_head'):
        return 'two-stage'
    elif hasattr(getattr(model, 'bbox_head', None), 'prior_generator'):
        return 'dense'
    raise UserError(
        f'{name} is not supported: whole models are EncoderDecoder with a convolutional head, '
        'two-stage detectors up to the RPN, and one-stage detectors with dense heads; '
        '--part backbone exports the backbone of any'
    )


def _replacement(module: nn.Module) -> nn.Module | None:
    """What to put in the place of a module that would fix a size."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return MatrixAdaptiveAvgPool2d(module.output_size)
    if type(module).__name__ == 'Upsample' and type(module).__module__.startswith('mmseg.'):
        factor = module.scale_factor
        if isinstance(factor, float) and factor.is_integer() and not module.size:
            return IntegerUpsample(int(factor), module.mode, module.align_corners)
    return None


def _numbered(name: str, maps: tuple[Tensor, ...] | list[Tensor]) -> dict[str, Tensor]:
    return {f'{name}{index}': x for index, x in enumerate(maps)}


def _image_scale(cfg: Config) -> dict[str, object]:
    """To what size the test pipeline resizes an image; nothing where it leaves images as they are.

    ``image_scale`` is (width, height) in pixels; with ``keep_ratio`` its longer side bounds that of
    the image, its shorter side that of the image, whichever is less.
    """
    for dataset in innermost_datasets((cfg.get('test_dataloader') or {}).get('dataset')):
        for step in transforms(dataset.get('pipeline') or [], 'Resize'):
            if step.get('scale'):
                scale = step['scale']
                scale = [scale, scale] if isinstance(scale, int) else list(scale)
                return dict(image_scale=scale, keep_ratio=bool(step.get('keep_ratio')))
    return {}


def _class_names(cfg: Config, meta: Mapping) -> list[str]:
    """Class names: the checkpoint's, else the config's, else those of its dataset type."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    names = [
        (part or {}).get('classes') for part in (meta.get('dataset_meta'), dataset.get('metainfo'))
    ]
    if not any(names) and dataset.get('type'):
        name = dataset['type']
        scoped = name if '.' in name else f'{cfg.default_scope}.{name}'
        names.append(getattr(DATASETS.get(scoped), 'METAINFO', {}).get('classes'))
    return list(next(filter(None, names), []))

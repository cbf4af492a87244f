"""What can be timed: one attention module, a backbone, or the whole model of a config."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from ... import backbones
from ...choices import BACKBONES
from ...engine.model import build_model, errors_of_build, is_own_backbone
from ...mixers import Site, build_token_mixer
from ...runs import check_amp, confine_autocast
from ...utils import UserError
from .device import Device

OBJECTS_PER_IMAGE = 7  # COCO's mean

Outputs = tuple[Tensor, ...] | None


class Subject(ABC):
    """Something that comes in several forms and is timed at several sizes.

    Attributes:
        name: For file names.
        title: For people.
        passes: What is timed, each with the unit of its rate.
        default_sizes: (H, W) where none are asked for.
        batch: Images, or maps, of one call; of a training iteration.
    """

    name: str
    title: str
    passes: ClassVar[Mapping[str, str]]
    default_sizes: tuple[tuple[int, int], ...]

    def __init__(self, device: Device, batch: int) -> None:
        self.device = device
        self.batch = batch

    def model(self, attention: str | Mapping | None = None) -> nn.Module:
        """The model on its device, the same at each call; or one with another attention throughout.

        Raises:
            UserError: It does not build.
        """
        torch.manual_seed(0)
        with errors_of_build(self.title):
            return self._build(attention).to(self.device.type)

    def images(self, phase: str) -> int:
        """Images, or maps, of one call of a pass."""
        return self.batch

    @abstractmethod
    def prepare(self, model: nn.Module, phase: str, size: tuple[int, int]) -> Callable[[], Outputs]:
        """Put the model in the mode of a pass and make its inputs.

        Args:
            model: From :meth:`model`.
            phase: Key of ``passes``.
            size: (H, W).

        Returns:
            Runs the pass once. Gives the outputs where forms can be compared by them.
        """

    @abstractmethod
    def _build(self, attention: str | Mapping | None) -> nn.Module: ...


class _Network(Subject):
    """Tensors in, tensors out: a forward pass, and one with the backward pass."""

    passes = {'forward': 'images/s', 'forward+backward': 'images/s'}

    @abstractmethod
    def _inputs(self, size: tuple[int, int]) -> tuple[object, ...]: ...

    def prepare(self, model: nn.Module, phase: str, size: tuple[int, int]) -> Callable[[], Outputs]:
        torch.manual_seed(0)
        inputs = self._inputs(size)
        backward = phase == 'forward+backward'
        model.train(backward)
        grads: list[Tensor] = []

        def run() -> Outputs:
            with torch.set_grad_enabled(backward), self.device.autocast():
                outs = model(*inputs)
            outs = (outs,) if isinstance(outs, Tensor) else outs
            if not backward:
                return outs
            if not grads:
                grads.extend(torch.randn_like(out) for out in outs)
            torch.autograd.backward(outs, grads)
            for tensor in (*model.parameters(), *inputs):
                if isinstance(tensor, Tensor):
                    tensor.grad = None
            return None

        return run


class AttentionSubject(_Network):
    """One attention module on a map of (H, W) tokens; its input takes a gradient too.

    Args:
        device: Where to run.
        attention: Name out of :func:`.list_attentions`, or a dict with its options.
        site: Its place; a window makes ``'softmax'`` Swin's, none makes it PVT's.
        batch: Maps of one call.
    """

    default_sizes = ((200, 320),)

    def __init__(self, device: Device, attention: str | Mapping, site: Site, batch: int) -> None:
        super().__init__(device, batch)
        self.attention, self.site = attention, site
        name = attention if isinstance(attention, str) else attention['type']
        self.name = f'attention-{name}-{site.dim}x{site.num_heads}-{site.qkv}'
        self.title = (
            f'one {name} attention, {site.dim} channels, {site.num_heads} heads, {site.qkv} q, k, v'
        )

    def _build(self, attention: str | Mapping | None) -> nn.Module:
        return build_token_mixer(attention or self.attention, self.site)

    def _inputs(self, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        tokens = torch.randn(self.batch, size[0] * size[1], self.site.dim)
        return tokens.to(self.device.type).requires_grad_(), size


class BackboneSubject(_Network):
    """A backbone on images of (H, W) pixels, without drop path.

    Args:
        device: Where to run.
        name: In :data:`~mmlab_inline.choices.BACKBONES`.
        options: Further keywords of its class.
        batch: Images of one call.
    """

    default_sizes = ((512, 512), (800, 1280))

    def __init__(self, device: Device, name: str, options: Mapping, batch: int) -> None:
        super().__init__(device, batch)
        cls, self.arch = BACKBONES[name]
        self.cls = getattr(backbones, cls)
        self.options = {'drop_path_rate': 0.0, **options}
        self.name = name
        self.title = f'backbone {name}'
        if options:
            self.title += ' with ' + ', '.join(f'{key}={value}' for key, value in options.items())

    def _build(self, attention: str | Mapping | None) -> nn.Module:
        other = {'attention': attention} if attention else {}
        return self.cls(self.arch, **{**self.options, **other})

    def _inputs(self, size: tuple[int, int]) -> tuple[Tensor]:
        return (torch.randn(self.batch, 3, *size).to(self.device.type),)


class ConfigSubject(Subject):
    """The model of a config on random images: predictions, and training iterations.

    A training iteration has seven random objects in each image or a random label map, and takes
    an optimizer step at rate 0, so that every form sees the same weights throughout. A prediction
    is of one image. A detector's random classifiers are made decided, because no box would pass
    the score threshold otherwise.

    Args:
        device: Where to run.
        cfg: The config; neither data nor pretrained weights are needed.
        name: For file names.
        batch: Images of a training iteration; None: the config's.

    Raises:
        UserError: The config has no model of mmdet or mmseg, or no InLine backbone, or cannot run
            in the precision asked for.
    """

    passes = {'inference': 'frames/s', 'training': 'iterations/s'}

    def __init__(self, device: Device, cfg: Config, name: str, batch: int | None) -> None:
        self.scope = cfg.get('default_scope')
        if self.scope not in _BATCHES or 'model' not in cfg:
            raise UserError('the config has no model of mmdet or mmseg (model, default_scope)')
        backbone = cfg.model.get('backbone', {})
        if not is_own_backbone(backbone):
            raise UserError(
                f'backbone {backbone.get("type", "")} has no forms; '
                f'take {" or ".join(backbones.__all__)}'
            )
        if device.amp:
            check_amp(device.type, self.scope)
        super().__init__(device, batch or cfg.train_dataloader.batch_size)
        self.cfg = copy.deepcopy(cfg)
        self.cfg.model.backbone.drop_path_rate = 0.0
        self.cfg.optim_wrapper.optimizer.lr = 0.0
        self.name = self.title = name
        self.default_sizes = (_image_size(cfg),)

    def _build(self, attention: str | Mapping | None) -> nn.Module:
        settings = copy.deepcopy(self.cfg.model)
        if attention:
            settings.backbone.attention = attention
        with _no_logs():
            model = build_model(settings, self.scope, what=self.title)
            model.init_weights()  # logs every parameter
        confine_autocast(model)
        for name, module in model.named_modules():
            if name.endswith(('.fc_cls', '.retina_cls')):
                module.weight.data *= 100
        return model

    def images(self, phase: str) -> int:
        return self.batch if phase == 'training' else 1

    def prepare(self, model: nn.Module, phase: str, size: tuple[int, int]) -> Callable[[], Outputs]:
        training = phase == 'training'
        if self.scope == 'mmseg':
            model.data_preprocessor.size = size
        torch.manual_seed(0)
        num_classes = _num_classes(self.cfg.model)
        data = _BATCHES[self.scope](self.images(phase), size, num_classes)
        model.train(training)
        optimizer = build_optim_wrapper(model, self.cfg.optim_wrapper) if training else None

        def run() -> None:
            torch.manual_seed(0)  # the same proposals are sampled, the same channels dropped
            inputs = model.data_preprocessor(data, training)
            with torch.set_grad_enabled(training), self.device.autocast():
                out = model(**inputs, mode='loss' if training else 'predict')
            if training:
                optimizer.update_params(model.parse_losses(out)[0])

        return run


@contextmanager
def _no_logs() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _detection_batch(batch: int, size: tuple[int, int], num_classes: int) -> dict:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    height, width = size
    samples = []
    for index in range(batch):
        first = torch.rand(OBJECTS_PER_IMAGE, 2) * 0.7
        corners = torch.cat([first, first + 0.05 + torch.rand(OBJECTS_PER_IMAGE, 2) * 0.25], 1)
        boxes = corners * torch.tensor([width, height, width, height])
        masks = torch.zeros(OBJECTS_PER_IMAGE, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(
            metainfo=dict(img_id=index, img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        )
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(num_classes, (OBJECTS_PER_IMAGE,)),
            masks=BitmapMasks(masks.numpy(), height, width),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return dict(inputs=_images(batch, size), data_samples=samples)


def _segmentation_batch(batch: int, size: tuple[int, int], num_classes: int) -> dict:
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(batch):
        sample = SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0] * 4)
        )
        sample.gt_sem_seg = PixelData(data=torch.randint(num_classes, (1, *size)))
        samples.append(sample)
    return dict(inputs=_images(batch, size), data_samples=samples)


_BATCHES = {'mmdet': _detection_batch, 'mmseg': _segmentation_batch}


def _images(batch: int, size: tuple[int, int]) -> list[Tensor]:
    return [torch.randint(256, (3, *size), dtype=torch.uint8) for _ in range(batch)]


def _num_classes(model: Mapping) -> int:
    head = model.get('decode_head') or model.get('bbox_head') or model['roi_head']['bbox_head']
    return (head[0] if isinstance(head, list) else head)['num_classes']


def _image_size(cfg: Config) -> tuple[int, int]:
    """The (H, W) of images that a config trains and predicts on: landscape ones in detection."""
    size = cfg.model.data_preprocessor.get('size')
    if size:
        return tuple(size)
    for step in cfg.get('test_dataloader', {}).get('dataset', {}).get('pipeline', ()):
        if step.type == 'Resize':
            return tuple(sorted(step.scale))
    raise UserError('the config does not say how large images are; give --sizes')

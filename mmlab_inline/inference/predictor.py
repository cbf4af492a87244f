"""A model with its weights, its test pipeline and its classes, ready to be given images."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn

from ..datasets.checks import ImageLoading, check_image, innermost_datasets
from ..datasets.checks.finding import first_fatal
from ..engine.model import build_model, load_weights
from ..runs import amp_dtype, check_amp, confine_autocast
from ..utils import UserError
from .failures import Failure, recorded
from .pictures import class_colours
from .predictions import Instances, MaskCrop, Prediction
from .sources import Frame
from .tiles import LabelMapMerger, logits_to_labels, merge_instances, tile_corners

# Images of all sizes that wait for others of their size, in batches.
_WAITING_BATCHES = 8
_FAILED = 'cannot be predicted'
# COCO's 80 classes are numbered up to 90, without these.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


class Predictor:
    """Predicts objects or label maps.

    Args:
        cfg: Config of mmdet or mmseg.
        checkpoint: Weights of exactly this model; None: random ones.
        device: Where the model runs, as torch names it.
        batch_size: Images, or tiles, that run together. Only those of one padded size do, so no
            prediction depends on what else there is.
        score_thr: Objects of a lower score are left out.
        tile: Side of the tiles that images are cut into, pixels; None: images run whole.
        overlap: Pixels that neighbouring tiles share.
        amp: Compute in mixed precision.

    Attributes:
        classes: Their names.
        palette: ``(num_classes, 3)`` uint8, RGB.
        category_ids: Of the classes in COCO's formats.
        is_segmentor: Whether predictions are label maps.

    Raises:
        UserError: The config has no model or one that does not build, the checkpoint is of another
            one, there is no such device, or no mixed precision on it.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | None,
        device: str,
        *,
        batch_size: int = 1,
        score_thr: float = 0.0,
        tile: int | None = None,
        overlap: int = 0,
        amp: bool = False,
    ) -> None:
        scope = cfg.get('default_scope')
        if scope not in ('mmdet', 'mmseg') or 'model' not in cfg:
            raise UserError('the config has no model of mmdet or mmseg (model, default_scope)')
        self.is_segmentor = scope == 'mmseg'
        self.batch_size, self.score_thr = batch_size, score_thr
        self.tile, self.overlap = tile, overlap
        init_default_scope(scope)
        self.device, self.amp = _checked_device(device), amp
        self.model = build_model(cfg.model, device=self.device)
        if amp:
            check_amp(self.device.type, scope)
            confine_autocast(self.model)
        meta = load_weights(self.model, checkpoint) if checkpoint else {}
        meta = meta.get('dataset_meta') or {}

        datasets = list(innermost_datasets((cfg.get('test_dataloader') or {}).get('dataset')))
        if not datasets:
            raise UserError('the config has no test_dataloader.dataset, whose pipeline is needed')
        self._load, self._prepare = _split_pipeline(datasets[0].pipeline)
        if not meta.get('classes'):  # converted weights do not name them
            meta = DATASETS.build(dict(datasets[0], lazy_init=True)).metainfo
        self.classes = tuple(meta.get('classes') or ())
        _check_classes(self.model, self.classes)
        self.palette = class_colours(len(self.classes), meta.get('palette'))
        self.category_ids = _category_ids(datasets[0], self.classes)

    def read_image(self, path: Path) -> np.ndarray:
        """Read a file as the test pipeline does: ``(H, W, 3)``, BGR.

        Raises:
            Failure: It does not load; says why.
        """
        try:
            return self._load(dict(img_path=str(path)))['img']
        except Exception as error:  # each decoder has its own
            finding = first_fatal(check_image(str(path), ImageLoading())[0])
            if finding is None:
                raise
            raise Failure(f'it {finding.problem}; copy it anew from its source') from error

    def __call__(
        self, frames: Iterable[Frame], failures: dict[str, str] | None = None
    ) -> Iterator[tuple[Frame, Prediction]]:
        """Predict each image; those of one video come in order, others as they fill batches.

        Args:
            frames: The images.
            failures: Gains the file names of images that fail, and why; None: a failure is raised.
        """
        if self.tile:
            for frame in frames:
                with recorded(failures, frame.file_name, _FAILED):
                    yield frame, self._predict_tiles(frame.image)
            return
        for batch in self._batches(self._prepared(frames, failures)):
            yield from self._predict(batch, failures)

    def backbone_input(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """What the backbone gets of an image (1, C, H, W), and (H, W) of it without padding."""
        data = self._prepare_image(image)
        shape = tuple(data['inputs'].shape[1:])
        batch = {key: [value] for key, value in data.items()}
        return self.model.data_preprocessor(batch, False)['inputs'], shape

    def _prepared(
        self, frames: Iterable[Frame], failures: dict[str, str] | None
    ) -> Iterator[tuple[Frame, dict]]:
        for frame in frames:
            with recorded(failures, frame.file_name, _FAILED):
                yield frame, self._prepare_image(frame.image)

    def _predict(
        self, batch: list[tuple[Frame, dict]], failures: dict[str, str] | None
    ) -> Iterator[tuple[Frame, Prediction]]:
        """Predict a batch; if it fails, such as for memory, its images one by one."""
        found = []
        with recorded(failures if len(batch) == 1 else {}, batch[0][0].file_name, _FAILED):
            found = [self._to_prediction(s) for s in self._run([data for _, data in batch])]
        if found:
            yield from zip([frame for frame, _ in batch], found, strict=True)
        elif len(batch) > 1:
            for item in batch:
                yield from self._predict([item], failures)

    def _predict_tiles(self, image: np.ndarray) -> Prediction:
        height, width = image.shape[:2]
        corners, shape = tile_corners(height, width, self.tile, self.overlap)
        merger = LabelMapMerger(height, width, shape[0], self._threshold)
        parts = []
        for start in range(0, len(corners), self.batch_size):
            batch = corners[start : start + self.batch_size]
            tiles = [image[y : y + shape[0], x : x + shape[1]] for y, x in batch]
            samples = self._run([self._prepare_image(tile) for tile in tiles])
            for corner, sample in zip(batch, samples, strict=True):
                if self.is_segmentor:
                    merger.add(*corner, sample.seg_logits.data)
                else:
                    parts.append(self._to_prediction(sample))
        if self.is_segmentor:
            return self._as_pixels(merger.result())
        return merge_instances(parts, corners, shape, (height, width))

    def _prepare_image(self, image: np.ndarray) -> dict:
        shape = image.shape[:2]
        image = np.ascontiguousarray(image)
        return self._prepare(dict(img=image, img_path=None, img_shape=shape, ori_shape=shape))

    def _batches(self, prepared: Iterable[tuple[Frame, dict]]) -> Iterator[list]:
        """Lists of at most ``batch_size`` that all have one padded size."""
        waiting: dict[tuple[int, ...], list] = {}
        for item in prepared:
            key = self._padded_shape(item[1])
            waiting.setdefault(key, []).append(item)
            if len(waiting[key]) == self.batch_size:
                yield waiting.pop(key)
            elif sum(map(len, waiting.values())) >= _WAITING_BATCHES * self.batch_size:
                yield waiting.pop(max(waiting, key=lambda key: len(waiting[key])))
        yield from waiting.values()

    def _padded_shape(self, data: dict) -> tuple[int, ...]:
        # mmseg pads every image of a batch alike, so there equal sizes are needed before.
        preprocessor = self.model.data_preprocessor
        divisor = 1 if self.is_segmentor else getattr(preprocessor, 'pad_size_divisor', 1)
        return tuple(-(-side // divisor) * divisor for side in data['inputs'].shape[1:])

    def _run(self, batch: list[dict]) -> list:
        data = {key: [each[key] for each in batch] for key in ('inputs', 'data_samples')}
        try:
            dtype = amp_dtype(self.device.type)
            with torch.no_grad(), torch.autocast(self.device.type, dtype, enabled=self.amp):
                return self.model.test_step(data)
        except torch.cuda.OutOfMemoryError:
            raise MemoryError(
                'the GPU has too little memory: lower --batch-size, or give --tile'
            ) from None

    def _to_prediction(self, sample: object) -> Prediction:
        if self.is_segmentor:
            labels = logits_to_labels(sample.seg_logits.data, self._threshold)
            return self._as_pixels(labels.cpu().numpy())
        found = sample.pred_instances
        found = found[found.scores >= self.score_thr].cpu()
        masks = None
        if 'masks' in found:
            masks = [MaskCrop.of(np.asarray(mask)) for mask in found.masks]
        return Instances(found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy(), masks)

    def _as_pixels(self, label_map: np.ndarray) -> np.ndarray:
        return label_map.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)

    @property
    def _threshold(self) -> float:
        head = getattr(self.model, 'decode_head', None)
        return getattr(head, 'threshold', None) or 0.5


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--device {name} cannot be used: {reason}') from None
    return device


def _split_pipeline(settings: list[dict]) -> tuple[Compose, Compose]:
    """The part that reads a file, and the rest without annotations."""
    kinds = [step['type'].rpartition('.')[2] for step in settings]
    load = [
        step for step, kind in zip(settings, kinds, strict=True) if kind.startswith('LoadImage')
    ]
    rest = [step for step, kind in zip(settings, kinds, strict=True) if not kind.startswith('Load')]
    if len(load) != 1:
        raise UserError('the test pipeline must read images by one LoadImageFromFile')
    return Compose(load), Compose(rest)


def _check_classes(model: nn.Module, classes: tuple[str, ...]) -> None:
    outputs = max(
        (module.num_classes for module in model.modules() if hasattr(module, 'num_classes')),
        default=0,
    )
    if outputs > len(classes):
        raise UserError(
            f'the model has {outputs} classes, but only {len(classes)} have a name: '
            'set metainfo.classes of test_dataloader.dataset'
        )


def _category_ids(dataset: Mapping, classes: tuple[str, ...]) -> list[int]:
    """As the annotations number them, if there are any; else as COCO does, or from 1."""
    path = Path(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if path.suffix == '.json' and path.is_file():
        categories = json.loads(path.read_bytes()).get('categories', [])
        known = {category['name']: category['id'] for category in categories}
        if known.keys() >= set(classes):
            return [known[name] for name in classes]
    if dataset['type'].endswith('CocoDataset') and len(classes) == 80:
        return [number for number in range(1, 91) if number not in _COCO_GAPS]
    return list(range(1, len(classes) + 1))

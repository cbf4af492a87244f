"""What COCO's evaluation of a detector says: precision, recall, confusions, images to look at."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mmengine.evaluator import Evaluator
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval
from torch.utils.data import Dataset

from ..inference import Instances, MaskCrop, Painter, class_colours
from .drawing import TEXTS, draw_pair, read_image, remarks_on, shrunk_size
from .evaluation import Evaluation, Picture, divide
from .extremes import Extremes

# Overlap from which a box counts as found in confusions and scores of images.
_IOU = 0.5
_KINDS = {'bbox': 'box', 'segm': 'mask'}


class DetectionCollector:
    """Listens to mmdet's CocoMetric while it evaluates.

    The metric has gathered the predictions of all images from all processes by then, and evaluates
    them by COCOeval: nothing is gathered or evaluated a second time.

    Args:
        evaluator: With mmdet's CocoMetric.
        dataset: That is evaluated; it knows the files of the images.
        num_pictures: How many of the best and of the worst images to draw.
        score_thr: Lowest score of the objects in confusions, scores of images and pictures.
    """

    def __init__(
        self, evaluator: Evaluator, dataset: Dataset, num_pictures: int, score_thr: float
    ) -> None:
        self._metric = _coco_metric(evaluator)
        self._meta = evaluator.dataset_meta
        self._dataset = dataset
        self._num_pictures = num_pictures
        self._score_thr = score_thr
        self._results: list[dict] = []
        self._evaluations: list[COCOeval] = []
        self._metric.compute_metrics = self._compute_metrics

    @staticmethod
    def fits(evaluator: Evaluator) -> bool:
        """Whether this evaluation is COCO's of objects with their truth."""
        metric = _coco_metric(evaluator)
        return metric is not None and not metric.format_only and set(metric.metrics) & _KINDS.keys()

    def add(self, samples: Sequence[Mapping]) -> None:
        """The metric keeps what it needs."""

    def gather(self) -> None:
        """The metric has gathered what there is."""
        del self._metric.compute_metrics  # the class's own again

    def _compute_metrics(self, results: list) -> dict:
        """The metric's own method, in the process that evaluates."""
        with _remembered_evaluations() as self._evaluations:
            metrics = type(self._metric).compute_metrics(self._metric, results)
        self._results = [result for _, result in results]
        return metrics

    def finish(self) -> Evaluation:
        """What was found."""
        cats = self._metric._coco_api.cats
        # Labels number the categories as the annotation file does.
        classes = tuple(cats[number]['name'] for number in self._metric.cat_ids)
        confusion, pictures = self._compare(len(classes))
        per_class, curves = self._columns(confusion)
        colours = class_colours(len(classes), self._meta.get('palette'))
        painter = Painter(classes, colours, TEXTS)
        best, worst = self._draw_extremes(pictures, painter)
        remarks = remarks_on(painter)
        if not any(len(result['labels']) for result in self._results):
            remarks.append('Nothing was detected, in no image, with no score.')
        settings = f'score of at least {self._score_thr:g}, box IoU of at least {_IOU:g}'
        return Evaluation(
            num_images=len(self._results),
            classes=classes,
            per_class=per_class,
            headline='mask AP' if 'mask AP' in per_class else 'box AP',
            confusion=confusion,
            confusion_names=(*classes, 'background'),
            confusion_note=(
                f'Objects, matched one to one ({settings}), those of the same class first. Row '
                'background: found where nothing is; column background: missed. Crowds do not '
                'count.'
            ),
            curves=curves,
            curves_note=(
                'COCO’s interpolated precision at IoU 0.5, all areas.'
                if curves
                else 'Without detections there are no curves.'
            ),
            score_name='F1 of the image',
            score_note=(
                'Harmonic mean of precision and recall over the objects of the image '
                f'({settings}); among equal ones those with more objects. Pictures show these '
                'objects.'
            ),
            best=best,
            worst=worst,
            remarks=remarks,
        )

    def _compare(self, size: int) -> tuple[np.ndarray, Extremes]:
        """Confusions of ``size`` classes over all images, and the best and the worst images."""
        confusion = np.zeros((size + 1, size + 1), np.int64)
        pictures: Extremes = Extremes(self._num_pictures)
        for result in self._results:
            found = self._found(result)
            truth = self._truth(result)
            pairs = _match(found, truth)
            part = _confusion(pairs, found['labels'], truth['labels'], size)
            confusion += part
            if part.any():
                right = np.trace(part[:size, :size])
                score = 2 * right / (part[:size].sum() + part[:, :size].sum())
                kept = result, found, truth
                # Among equal scores those of many objects: there is more to see.
                pictures.add(score, lambda kept=kept: kept, weight=part.sum())
        return confusion, pictures

    def _columns(
        self, confusion: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The table of classes, and their curves of precision over recall."""
        size = len(confusion) - 1
        per_class = {'objects': confusion[:size].sum(1)}
        curves = {}
        for evaluation in self._evaluations:
            if not evaluation.params.useCats:
                continue  # of proposals
            kind = _KINDS[evaluation.params.iouType]
            precision = _precision(evaluation)
            per_class |= _average_precisions(kind, precision, evaluation.params.iouThrs)
            at_half = np.argmin(abs(evaluation.params.iouThrs - _IOU))
            curves[kind] = precision[at_half].T
        right = np.diag(confusion)[:size]
        per_class['precision'] = divide(right, confusion[:, :size].sum(0))
        per_class['recall'] = divide(right, confusion[:size].sum(1))
        return per_class, curves

    def _draw_extremes(self, pictures: Extremes, painter: Painter) -> tuple[list[Picture], ...]:
        """The best and the worst images, drawn."""
        entries = pictures.best(), pictures.worst()
        paths = self._paths({kept[0]['img_id'] for part in entries for _, kept in part})
        return tuple([self._draw(*entry, paths, painter) for entry in part] for part in entries)

    def _found(self, result: Mapping) -> dict:
        """Objects of a prediction that are sure enough, the surest first."""
        order = np.argsort(-result['scores'], kind='stable')
        order = order[result['scores'][order] >= self._score_thr]
        boxes = result['bboxes'][order].astype(float).reshape(-1, 4)
        masks = result.get('masks')
        return {
            'labels': result['labels'][order],
            'scores': result['scores'][order],
            'boxes': np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]),
            'masks': None if masks is None else [masks[index] for index in order],
        }

    def _truth(self, result: Mapping) -> dict:
        """Objects that are annotated; crowds too."""
        api = self._metric._coco_api
        label_of = {number: label for label, number in enumerate(self._metric.cat_ids)}
        found = [a for a in api.imgToAnns[result['img_id']] if a['category_id'] in label_of]
        return {
            'labels': np.array([label_of[a['category_id']] for a in found], int),
            'scores': None,
            'boxes': np.array([a['bbox'] for a in found], float).reshape(-1, 4),
            'crowds': np.array([a.get('iscrowd', 0) for a in found], bool),
            'annotations': found,
        }

    def _paths(self, wanted: set) -> dict:
        """Files of images."""
        infos = map(self._dataset.get_data_info, range(len(self._dataset)))
        return {i['img_id']: i['img_path'] for i in infos if i.get('img_id') in wanted}

    def _draw(
        self, score: float, kept: tuple[Mapping, ...], paths: Mapping, painter: Painter
    ) -> Picture:
        result, found, truth = kept
        path = paths.get(result['img_id'], f'image {result["img_id"]}')
        api = self._metric._coco_api
        info = api.imgs[result['img_id']]
        size = info['height'], info['width']
        small = shrunk_size(*size)
        masks = None
        if any(a.get('segmentation') for a in truth['annotations']) and result.get('masks'):
            masks = [api.annToRLE(annotation) for annotation in truth['annotations']]
        return draw_pair(
            Path(path).name,
            score,
            read_image(path, *small),
            _instances({**truth, 'masks': masks}, size, small),
            _instances(found, size, small),
            painter,
        )


def _coco_metric(evaluator: Evaluator) -> object | None:
    from mmdet.evaluation import CocoMetric

    # A class of another compute_metrics, such as LVIS's, has other evaluations.
    own = CocoMetric.compute_metrics
    return next(
        (m for m in evaluator.metrics if getattr(type(m), 'compute_metrics', None) is own), None
    )


@contextmanager
def _remembered_evaluations() -> Iterator[list[COCOeval]]:
    """The evaluations that mmdet's metric makes meanwhile; it keeps none itself."""
    from mmdet.evaluation.metrics import coco_metric

    made = []

    def remember(cls: type) -> Callable:
        def make(*args: object, **kwargs: object) -> COCOeval:
            evaluation = cls(*args, **kwargs)
            if evaluation.params.iouType in _KINDS:
                made.append(evaluation)
            return evaluation

        return make

    names = [name for name in ('COCOeval', 'COCOevalMP') if hasattr(coco_metric, name)]
    before = {name: getattr(coco_metric, name) for name in names}
    try:
        for name, cls in before.items():
            setattr(coco_metric, name, remember(cls))
        yield made
    finally:
        for name, cls in before.items():
            setattr(coco_metric, name, cls)


def _precision(evaluation: COCOeval) -> np.ndarray:
    """``(T, R, C)`` for T overlaps and R recalls, over all areas; NaN where there is no object."""
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    return np.where(precision < 0, np.nan, precision)


def _average_precisions(
    kind: str, precision: np.ndarray, thresholds: np.ndarray
) -> dict[str, np.ndarray]:
    columns = {f'{kind} AP': precision.mean((0, 1))}
    for threshold in (0.5, 0.75):
        at = np.flatnonzero(np.isclose(thresholds, threshold))
        if len(at):
            columns[f'{kind} AP{100 * threshold:.0f}'] = precision[at[0]].mean(0)
    return columns


def _match(found: Mapping, truth: Mapping) -> list[tuple[int, int]]:
    """Pairs of positions in what was found and what is there; -1 where one has no partner.

    One to one, the surest first, each with the largest overlap that is left: first within classes,
    then across them. What lies in a crowd and has no partner is left out.
    """
    crowds = truth['crowds']
    overlaps = np.zeros((len(found['boxes']), len(crowds)))
    if overlaps.size:
        # Of a crowd it is the share of the found box.
        overlaps = coco_mask.iou(found['boxes'], truth['boxes'], crowds.astype(np.uint8).tolist())
    in_crowd = (overlaps[:, crowds] >= _IOU).any(1)
    free = np.where(overlaps >= _IOU, overlaps, 0.0)
    free[:, crowds] = 0
    same_class = found['labels'][:, None] == truth['labels']
    partner = np.full(len(found['boxes']), -1)
    for allowed in (same_class, ~same_class):
        candidates = free * allowed
        for index in np.flatnonzero((partner < 0) & candidates.any(1)):
            column = candidates[index].argmax()
            if candidates[index, column]:
                partner[index] = column
                free[:, column] = candidates[:, column] = 0
    pairs = [(i, j) for i, j in enumerate(partner.tolist()) if j >= 0 or not in_crowd[i]]
    missed = set(np.flatnonzero(~crowds).tolist()) - set(partner.tolist())
    return pairs + [(-1, j) for j in sorted(missed)]


def _confusion(
    pairs: Sequence[tuple[int, int]], found: np.ndarray, truth: np.ndarray, size: int
) -> np.ndarray:
    """``(C + 1, C + 1)``, a row per true class; the last ones are background."""
    out = np.zeros((size + 1, size + 1), np.int64)
    for i, j in pairs:
        out[truth[j] if j >= 0 else size, found[i] if i >= 0 else size] += 1
    return out


def _instances(objects: Mapping, size: tuple[int, int], small: tuple[int, int]) -> Instances:
    """Objects of an image of (H, W) pixels on a shrunk one.

    Masks are shrunk one by one: those of a crowded large image would fill memory.
    """
    scale = np.array([small[1] / size[1], small[0] / size[0]] * 2)
    left, top, width, height = objects['boxes'].T
    boxes = np.stack([left, top, left + width, top + height], 1) * scale
    masks = objects['masks']
    if masks is not None:
        masks = [_shrunk_mask(rle, small) for rle in masks]
    return Instances(boxes.astype(np.float32), objects['scores'], objects['labels'], masks)


def _shrunk_mask(rle: dict, small: tuple[int, int]) -> MaskCrop:
    mask = coco_mask.decode(rle)
    rows = np.linspace(0, len(mask) - 1, small[0]).round().astype(int)
    columns = np.linspace(0, mask.shape[1] - 1, small[1]).round().astype(int)
    return MaskCrop.of(mask[np.ix_(rows, columns)] > 0)

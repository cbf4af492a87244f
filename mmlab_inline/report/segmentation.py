"""What the label maps of an evaluation say: confusions, precision and recall, images to look at."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.evaluator import Evaluator
from torch import Tensor

from ..inference import Painter, class_colours
from .drawing import TEXTS, draw_pair, read_image, remarks_on, shrunk_size
from .evaluation import RECALLS, Evaluation, Picture, divide
from .extremes import Extremes

# Pixels of an image, on a regular grid, that precision-recall curves look at: the probabilities of
# 150 classes at every pixel would take longer than a fast model.
_MAX_SAMPLES = 1024
# Probabilities are counted by their logit in bins of 1/40, from -12 to 12.
_LARGEST_LOGIT = 12
_BINS_PER_LOGIT = 40
_NUM_BINS = 2 * _LARGEST_LOGIT * _BINS_PER_LOGIT + 1


class SegmentationCollector:
    """Adds up label maps as they come; keeps no image but the few best and worst.

    Args:
        evaluator: With mmseg's IoUMetric.
        num_images: Of the data set.
        num_pictures: How many of the best and of the worst images to draw.
    """

    def __init__(self, evaluator: Evaluator, num_images: int, num_pictures: int) -> None:
        metric = _iou_metric(evaluator)
        self._ignored = metric.ignore_index
        self._meta = evaluator.dataset_meta
        self._num_images = num_images
        self.classes = tuple(self._meta['classes'])
        size = len(self.classes)
        self._confusion = np.zeros((size, size), np.int64)
        # How often a class has a probability, and how often it is there too.
        self._ranked = torch.zeros(2, size, _NUM_BINS, dtype=torch.long)
        self._pictures: Extremes = Extremes(num_pictures)
        self._seen = 0

    @staticmethod
    def fits(evaluator: Evaluator) -> bool:
        """Whether this evaluation is one of label maps with their truth."""
        metric = _iou_metric(evaluator)
        return metric is not None and not metric.format_only

    def add(self, samples: Sequence[Mapping]) -> None:
        """Take a batch of results, with ``pred_sem_seg`` and ``gt_sem_seg`` of one size."""
        for sample in samples:
            # The sampler fills the last round of several processes with images of the first one.
            number = self._seen * get_world_size() + get_rank()
            self._seen += 1
            if number < self._num_images:
                self._add(sample)

    def _add(self, sample: Mapping) -> None:
        size = len(self.classes)
        # One sigmoid for two classes gives its label map as floating-point numbers.
        predicted = sample.pred_sem_seg.data.squeeze(0).long()
        truth = sample.gt_sem_seg.data.squeeze(0).to(predicted)
        counted = (truth != self._ignored) & (truth < size)
        # What is not counted goes to a cell of its own, the last one.
        pairs = (truth * size + predicted).where(counted, size * size).ravel()
        cells = pairs.bincount(minlength=size * size + 1)[:-1]
        confusion = cells.reshape(size, size).cpu().numpy()
        self._confusion += confusion
        if 'seg_logits' in sample:
            self._add_probabilities(sample.seg_logits.data, truth, counted)
        if confusion.any():
            path = sample.img_path
            self._pictures.add(
                float(np.nanmean(_ious(confusion))),
                lambda: (path, _shrunk(truth.where(counted, size)), _shrunk(predicted)),
            )

    def _add_probabilities(self, logits: Tensor, truth: Tensor, counted: Tensor) -> None:
        step = max(1, math.ceil(math.sqrt(truth.numel() / _MAX_SAMPLES)))
        grid = (slice(step // 2, None, step),) * 2
        chosen = counted[grid]
        if len(logits) == 1:  # one sigmoid, already applied
            probabilities = logits[0][grid][chosen].float()
            probabilities = torch.stack([1 - probabilities, probabilities])
        else:
            probabilities = logits[(slice(None), *grid)][:, chosen].float().softmax(0)
        size = len(probabilities)
        ranks = probabilities.nan_to_num().logit(eps=1e-6).clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        cells = ((ranks + _LARGEST_LOGIT) * _BINS_PER_LOGIT).round_().long()
        cells += _NUM_BINS * torch.arange(size, device=cells.device)[:, None]
        there = cells.gather(0, truth[grid][chosen][None])
        self._ranked = self._ranked.to(cells)
        for counts, places in zip(self._ranked, (cells, there), strict=True):
            counts += places.ravel().bincount(minlength=counts.numel()).reshape(counts.shape)

    def gather(self) -> None:
        """Add up what several processes have seen; all of them have to call this."""
        parts = all_gather_object((self._confusion, self._ranked.cpu(), self._pictures))
        self._confusion = sum(part[0] for part in parts)
        self._ranked = sum(part[1] for part in parts)
        for rank, (_, _, pictures) in enumerate(parts):
            if rank != get_rank():
                self._pictures.merge(pictures)

    def finish(self) -> Evaluation:
        """What was found."""
        confusion = self._confusion
        right, true, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
        has_ranks = bool(self._ranked.any())
        colours = class_colours(len(self.classes), self._meta.get('palette'))
        # What has no label is a class of its own here.
        colours = np.vstack([colours, np.full((1, 3), 40, np.uint8)])
        painter = Painter((*self.classes, 'no label'), colours, TEXTS)
        curves, precisions = _curves(*self._ranked.numpy())
        per_class = {
            'IoU': 100 * _ious(confusion),
            'accuracy (recall)': 100 * divide(right, true),
            'precision': 100 * divide(right, predicted),
            'Dice (F1)': 100 * divide(2 * right, true + predicted),
            'pixels, %': 100 * divide(true, true.sum()),
        }
        if has_ranks:
            per_class['pixel AP'] = 100 * precisions
        return Evaluation(
            num_images=self._num_images,
            classes=self.classes,
            per_class=per_class,
            headline='IoU',
            confusion=confusion,
            confusion_names=self.classes,
            confusion_note='Pixels; those without a label are not counted.',
            curves={'pixels': curves} if has_ranks else {},
            curves_note=(
                'Every class against all others, ranked by its probability at up to '
                f'{_MAX_SAMPLES} pixels of an image, on a regular grid.'
                if has_ranks
                else 'This evaluation gives no probabilities, so there are no curves.'
            ),
            score_name='mIoU of the image',
            score_note='The mean IoU over the classes that the image or its prediction has.',
            best=[_draw(*entry, painter) for entry in self._pictures.best()],
            worst=[_draw(*entry, painter) for entry in self._pictures.worst()],
            remarks=remarks_on(painter),
            percent=True,
        )


def _draw(score: float, kept: tuple[str, np.ndarray, np.ndarray], painter: Painter) -> Picture:
    path, truth, predicted = kept
    image = read_image(path, *truth.shape)
    return draw_pair(Path(path).name, score, image, truth, predicted, painter)


def _iou_metric(evaluator: Evaluator) -> object | None:
    from mmseg.evaluation import IoUMetric

    return next((m for m in evaluator.metrics if isinstance(m, IoUMetric)), None)


def _shrunk(label_map: Tensor) -> np.ndarray:
    height, width = shrunk_size(*label_map.shape)
    kept = label_map.cpu().numpy().astype(np.uint16)
    return cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST)


def _ious(confusion: np.ndarray) -> np.ndarray:
    right = np.diag(confusion)
    return divide(right, confusion.sum(0) + confusion.sum(1) - right)


def _curves(ranked: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Curves at :data:`RECALLS` and the areas below them.

    Args:
        ranked: ``(C, bins)``: pixels by the probability of the class, the lowest first.
        there: Those of them that are of the class.
    """
    found = there[:, ::-1].cumsum(1)
    precision = divide(found, ranked[:, ::-1].cumsum(1))
    recall = divide(found, found[:, -1:])
    curves = np.full((len(ranked), len(RECALLS)), np.nan)
    for curve, p, r in zip(curves, precision, recall, strict=True):
        if np.isnan(r[-1]):
            continue
        # The best precision at this recall or a higher one, as COCO has it.
        best = np.maximum.accumulate(np.nan_to_num(p)[::-1])[::-1]
        curve[:] = best[np.searchsorted(r, RECALLS - 1e-9)]
    return curves, curves.mean(1)

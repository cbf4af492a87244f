"""Image scale, anchors and schedule out of the sizes of objects and the number of pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .readers import Picture

# Small objects (10th percentile) are brought to this size in pixels: two cells of stride 32.
_WANTED_OBJECT = 64
# A region of a label map: one cell.
_WANTED_REGION = 32
# Nothing is learned of smaller objects.
_LEAST_OBJECT = 16
_SIDES = (480, 800)  # short sides that COCO's recipes train at
_MOST = 1600
_SEGMENTATION_SIDES = (256, 512)
_SEGMENTATION_MOST = 1024
# Epochs: as many as it takes to see so many pictures, at least the recipe's, at most so many.
_PICTURES_SEEN = 24_000
_MOST_EPOCHS = 100
_ADE20K_IMAGES = 20_210


@dataclass(frozen=True)
class ObjectSizes:
    """Sizes in the training pictures, pixels as they lie in the files.

    Attributes:
        percentiles: 5th, 10th, 50th and 95th of the square roots of box or region areas.
        aspects: 5th and 95th percentile of height over width of the boxes.
        short, long: Sides of the median picture.
    """

    percentiles: tuple[float, float, float, float]
    aspects: tuple[float, float]
    short: float
    long: float

    @classmethod
    def of(cls, pictures: Sequence[Picture], with_regions: bool) -> 'ObjectSizes':
        """Measure boxes, or with ``with_regions`` the regions of label maps."""
        sides = np.array([sorted(picture.size) for picture in pictures])
        short, long = np.median(sides, 0).tolist()
        boxes = np.array(
            [item['bbox'][2:] for p in pictures for item in p.objects if not item['iscrowd']]
        ).reshape(-1, 2)
        boxes = boxes[(boxes >= 1).all(1)]
        sizes = np.sqrt(boxes.prod(1))
        if with_regions:
            sizes = np.array([size for picture in pictures for size in picture.region_sizes])
        if not len(sizes):
            sizes = np.array([_WANTED_OBJECT])
        aspects = boxes[:, 1] / boxes[:, 0] if len(boxes) else np.ones(1)
        return cls(
            tuple(np.percentile(sizes, [5, 10, 50, 95]).tolist()),
            tuple(np.percentile(aspects, [5, 95]).tolist()),
            short,
            long,
        )


@dataclass(frozen=True)
class DetectionRecipe:
    """What of a detection recipe follows from the data.

    Attributes:
        scale: Long and short side that pictures are resized into.
        factor: What the median picture's sides are multiplied by.
        why: The reason for the scale.
    """

    scale: tuple[int, int]
    factor: float
    why: str

    @classmethod
    def of(
        cls, sizes: ObjectSizes, base_scale: tuple[int, int], short: int | None = None
    ) -> 'DetectionRecipe':
        """Choose the scale.

        Args:
            sizes: Of the objects.
            base_scale: Long and short side of the published recipe, which has their ratio.
            short: The short side if the user has chosen it.
        """
        small = sizes.percentiles[1]
        why = f'the 10th percentile of the objects is to measure {_WANTED_OBJECT} pixels'
        low, high = _SIDES
        if short:
            why = '--short-side'
        else:
            wanted = sizes.short * _WANTED_OBJECT / small
            short = _round32(min(max(wanted, low), high))
            if wanted < low:
                why += f', on a short side of no less than {low}'
            elif wanted > high:
                why += f', on a short side of no more than {high}'
            least = sizes.short * _LEAST_OBJECT / small
            if least > high:
                # Enlarging beyond the file shows nothing new, beyond _MOST it costs too much.
                short = _round32(min(least, max(sizes.short, high), _MOST))
                why += f'; raised to {short} for objects of less than {_LEAST_OBJECT} pixels'
        scale = (round(short * max(base_scale) / min(base_scale)), short)
        factor = min(short / sizes.short, scale[0] / sizes.long)
        return cls(scale, factor, why)

    def anchors(self, generator: Mapping, sizes: ObjectSizes) -> dict:
        """What of an anchor generator has to change so that its anchors span the objects.

        Args:
            generator: Its settings, with ``scales`` or ``octave_base_scale``.
            sizes: Of the objects, before scaling.
        """
        smallest = sizes.percentiles[0] * self.factor
        largest = sizes.percentiles[3] * self.factor
        strides = generator['strides']
        changes: dict = {}
        key = 'octave_base_scale' if generator.get('octave_base_scale') else 'scales'
        base = generator[key] if key == 'octave_base_scale' else min(generator[key])
        # Half an octave off is as near as anchors lie.
        if smallest < base * strides[0] / math.sqrt(2):
            scale = max(2, round(smallest / strides[0]))
            if key == 'octave_base_scale':
                changes[key] = scale
            elif scale * strides[-1] * math.sqrt(2) < largest:
                changes[key] = [scale, *generator[key]]
            else:
                changes[key] = [scale]
        ratios = list(generator['ratios'])
        low, high = sizes.aspects
        if high > max(ratios) * math.sqrt(2) and max(ratios) > 1:
            ratios.append(2 * max(ratios))
        if low < min(ratios) / math.sqrt(2) and min(ratios) < 1:
            ratios.insert(0, min(ratios) / 2)
        if ratios != list(generator['ratios']):
            changes['ratios'] = ratios
        return changes


@dataclass(frozen=True)
class SegmentationRecipe:
    """What of a segmentation recipe follows from the data.

    Attributes:
        short: Short side that pictures are resized to.
        crop: Side of the training crops.
        why: The reason.
    """

    short: int
    crop: int
    why: str

    @classmethod
    def of(cls, sizes: ObjectSizes, short: int | None = None) -> 'SegmentationRecipe':
        """Choose the scale.

        Args:
            sizes: Of the regions of the label maps.
            short: The short side if the user has chosen it.
        """
        why = f'the 10th percentile of the regions is to measure {_WANTED_REGION} pixels'
        low, high = _SEGMENTATION_SIDES
        if short:
            why = '--short-side'
        else:
            high = max(high, min(sizes.short, _SEGMENTATION_MOST))
            wanted = sizes.short * _WANTED_REGION / max(sizes.percentiles[1], 1)
            short = _round32(min(max(wanted, low), high))
            if wanted > high:
                why += f', on a short side of no more than {_round32(high)}'
            elif wanted < low:
                why += f', on a short side of no less than {low}'
        return cls(short, min(short, _SEGMENTATION_SIDES[1]), why)


def choose_epochs(num_pictures: int, base_epochs: float, epochs: int | None) -> tuple[int, str]:
    """Epochs to train, and why.

    Args:
        num_pictures: Pictures to train on.
        base_epochs: Epochs of the published recipe.
        epochs: What the user has chosen, or None.
    """
    if epochs:
        return epochs, '--epochs'
    least = min(math.ceil(base_epochs), _MOST_EPOCHS)
    chosen = min(max(round(_PICTURES_SEEN / num_pictures), least), _MOST_EPOCHS)
    return chosen, (
        f'{_PICTURES_SEEN} pictures seen, at least {least} epochs (the published recipe) and at '
        f'most {_MOST_EPOCHS}'
    )


def base_epochs(train_cfg: Mapping, base_batch: int) -> float:
    """Epochs of a published recipe, on COCO or ADE20K."""
    if 'max_epochs' in train_cfg:
        return train_cfg['max_epochs']
    return train_cfg['max_iters'] * base_batch / _ADE20K_IMAGES


def scale_schedulers(
    schedulers: Sequence[Mapping], train_cfg: Mapping, length: int, num_steps: int
) -> list[dict]:
    """The published learning-rate schedule over another length.

    Warm-up keeps its iterations, but takes a tenth of the run at most.

    Args:
        schedulers: Of the published config.
        train_cfg: Its loop, by epochs or by iterations.
        length: Epochs, or iterations, of the run.
        num_steps: Iterations of the run.
    """
    base = train_cfg.get('max_epochs') or train_cfg['max_iters']
    by_epoch = 'max_epochs' in train_cfg
    warm_up = max((s['end'] for s in schedulers if s['type'] == 'LinearLR'), default=0)
    new_warm_up = min(warm_up, max(1, num_steps // 10))

    def moved(value: int, in_epochs: bool) -> int:
        if in_epochs or (not by_epoch and value > warm_up):
            return max(1, round(value * length / base))
        return min(value, new_warm_up) if value else 0

    changed = []
    for scheduler in schedulers:
        scheduler = dict(scheduler)
        in_epochs = scheduler.get('by_epoch', True)
        for key in ('begin', 'end', 'T_max'):
            if scheduler.get(key):
                scheduler[key] = moved(scheduler[key], in_epochs)
        if 'milestones' in scheduler:
            steps = {moved(step, in_epochs) for step in scheduler['milestones']}
            # A step at the end of the run would come after its last iteration.
            scheduler['milestones'] = sorted(steps - {scheduler.get('end')})
        if scheduler.get('milestones') != []:
            changed.append(scheduler)
    return changed


def scale_pipeline(node: object, factor: float, crop: tuple[int, int] | None = None) -> object:
    """A pipeline with all image and crop sizes multiplied.

    Args:
        node: The pipeline's settings, or a part.
        factor: What sizes are multiplied by.
        crop: What crops become instead.
    """
    if isinstance(node, Mapping):
        changed = {}
        for key, value in node.items():
            if key in ('scale', 'scales'):
                value = _multiplied(value, factor)
            elif key == 'crop_size':
                value = crop or _multiplied(value, factor)
            changed[key] = scale_pipeline(value, factor, crop)
        return changed
    if isinstance(node, list):
        return [scale_pipeline(item, factor, crop) for item in node]
    return node


def vary_more(pipeline: Sequence[Mapping], scales: tuple[float, float]) -> list[dict] | None:
    """A detector's pipeline that resizes and flips alone, with other sizes, crops and colours too.

    Args:
        pipeline: Its steps.
        scales: Least and largest factor of the size.

    Returns:
        The pipeline, or None where it varies more than flips already or does not resize.
    """
    kinds = [step['type'] for step in pipeline]
    if 'Resize' not in kinds or set(kinds) & {
        'RandomCrop',
        'RandomChoice',
        'PhotoMetricDistortion',
    }:
        return None
    place = kinds.index('Resize')
    scale = tuple(pipeline[place]['scale'])
    side = max(scale)
    changed = [
        dict(type='PhotoMetricDistortion'),
        dict(type='RandomResize', scale=scale, ratio_range=scales, keep_ratio=True),
        dict(type='RandomCrop', crop_size=(side, side), allow_negative_crop=True),
    ]
    return [*map(dict, pipeline[:place]), *changed, *map(dict, pipeline[place + 1 :])]


def _multiplied(value: object, factor: float) -> object:
    if isinstance(value, list | tuple):
        return type(value)(_multiplied(item, factor) for item in value)
    return round(value * factor)


def _round32(side: float) -> int:
    return max(32, round(side / 32) * 32)

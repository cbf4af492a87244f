"""Loading that stops with the file and the remedy where mm's transforms give a traceback."""

from collections.abc import Callable, Iterator

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset

from ..utils import UserError, one_line
from .checks import ImageLoading, LabelLoading, any_size, check_image, check_label_map
from .checks.finding import Finding, first_fatal


def check_loading(dataset: object) -> None:
    """Let a dataset's transforms named ``Load...`` name the file where they fail.

    Images of another size than annotated, and label maps of another size than their image or with
    values beyond the classes, fail too.

    Args:
        dataset: A dataset, or a wrapper around some; changed in place.
    """
    for inner in innermost(dataset):
        steps = getattr(getattr(inner, 'pipeline', None), 'transforms', [])
        steps[:] = [
            CheckedLoading(step, inner) if type(step).__name__.startswith('Load') else step
            for step in steps
        ]


class CheckedLoading:
    """A loading transform that raises :class:`UserError` where it fails.

    Args:
        transform: The transform.
        dataset: Whose transform it is.
    """

    def __init__(self, transform: Callable, dataset: BaseDataset) -> None:
        self.transform = transform
        self.loads_image = isinstance(transform, LoadImageFromFile)
        self.labels = None
        if hasattr(dataset, 'reduce_zero_label') and dataset.metainfo.get('classes'):
            self.labels = LabelLoading(
                len(dataset.metainfo['classes']),
                dataset.reduce_zero_label,
                dataset.label_map,
                getattr(transform, 'imdecode_backend', 'pillow'),
                dataset.ignore_index,
            )

    def __call__(self, results: dict) -> dict | None:
        """Load; ``results`` as mm's transforms take and return them.

        Raises:
            UserError: A file does not load, or does not fit the dataset.
        """
        try:
            with any_size():
                loaded = self.transform(results)
        except Exception as error:  # each decoder has its own
            raise UserError(self._explain(results, error)) from error
        if loaded and self._is_wrong(loaded):
            raise UserError(self._explain(loaded, None))
        return loaded

    def __repr__(self) -> str:
        return repr(self.transform)

    def _is_wrong(self, results: dict) -> bool:
        size = tuple(results.get('ori_shape', ()))
        if self._annotated_size(results) not in (None, size):
            return True
        labels = results.get('gt_seg_map') if self.labels else None
        if labels is None:
            return False
        beyond = labels >= self.labels.num_classes
        return labels.shape != size or not all(map(self.labels.ignores, np.unique(labels[beyond])))

    def _annotated_size(self, results: dict) -> tuple[int, int] | None:
        has_size = 'height' in results and 'width' in results and self.loads_image
        return (results['height'], results['width']) if has_size else None

    def _explain(self, results: dict, error: Exception | None) -> str:
        findings: list[Finding] = []
        if self.loads_image:
            loading = ImageLoading(self.transform.color_type, self.transform.imdecode_backend)
            size = self._annotated_size(results)
            findings, _ = check_image(results['img_path'], loading, size)
        elif self.labels:
            size = tuple(results['ori_shape'])
            findings, _ = check_label_map(results['seg_map_path'], size, self.labels)
        finding = first_fatal(findings)
        if finding:
            text = f'{finding.file}: {finding.problem}; {finding.remedy}'
        else:
            text = f'{results["img_path"]}: its annotations do not load ({one_line(error)})'
        return f'{text} (tools/dataset/check.py CONFIG finds all such files)'


def innermost(dataset: object) -> Iterator[object]:
    """The built datasets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner == [None]:
        yield dataset
        return
    for child in inner:
        yield from innermost(child)

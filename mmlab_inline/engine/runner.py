"""mmengine's runner, with one line where settings or data fail."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ..datasets.checked_loading import check_loading, innermost
from ..datasets.checks import check_annotations, innermost_datasets, read_annotations
from ..datasets.checks.finding import first_fatal
from ..datasets.checks.settings import class_names, dataset_class
from ..utils import UserError, one_line
from .allocator import return_freed_memory
from .model import errors_of_build
from .seeding import prefer_deterministic_algorithms

_NO_IMAGE = 'no image is left, folder, suffix, class names or filter_cfg do not fit'


class CheckedRunner(Runner):
    """Stops with one line where the model or a dataset does not build, or a file does not load.

    ``randomness.deterministic`` only warns of what has no deterministic algorithm.
    """

    def set_randomness(self, *args: object, **settings: object) -> None:
        """Seed this process."""
        super().set_randomness(*args, **settings)
        if self.deterministic:
            prefer_deterministic_algorithms()

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model.

        Raises:
            UserError: It does not build.
        """
        with errors_of_build():
            return super().build_model(model)

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Build an evaluator, whose metrics may read annotations."""
        evaluator = super().build_evaluator(evaluator)
        return_freed_memory()
        return evaluator

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader, as mmengine does, on a checked dataset.

        Raises:
            UserError: The dataset does not build, or has no image or not all of its classes.
        """
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            settings = dataloader['dataset']
            dataloader = {**dataloader, 'dataset': dict(type=_build_dataset, settings=settings)}
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)

    def train(self) -> nn.Module:
        """Train.

        Raises:
            UserError: A file does not load.
        """
        with _errors_of_workers():
            return super().train()

    def test(self) -> dict[str, float]:
        """Test.

        Raises:
            UserError: A file does not load.
        """
        with _errors_of_workers():
            return super().test()


def _build_dataset(settings: Mapping) -> object:
    try:
        dataset = DATASETS.build(settings)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        parts = [part for part in innermost(dataset) if isinstance(part, BaseDataset)]
        for part in parts:
            classes = part.metainfo.get('classes') or ()
            if len(getattr(part, 'cat_ids', classes)) < len(classes):
                raise UserError('not every class is a category of the file')
            if not len(part):
                raise UserError(_NO_IMAGE)
        if parts and not any(part.test_mode or _has_objects(part) for part in parts):
            raise UserError('no image has an object to learn, or all are crowds (iscrowd)')
    except Exception as error:  # whatever settings or annotations provoke
        raise UserError(
            f'{_explain(settings, error)} (tools/dataset/check.py CONFIG says more)'
        ) from error
    check_loading(dataset)
    return_freed_memory()
    return dataset


def _has_objects(dataset: BaseDataset) -> bool:
    """Whether there is an object to learn; ends at the first one."""
    infos = map(dataset.get_data_info, range(len(dataset)))
    # What has no instances is no detection set.
    instances = chain.from_iterable(info.get('instances', [{}]) for info in infos)
    return any(not instance.get('ignore_flag') for instance in instances)


def _explain(settings: Mapping, error: Exception) -> str:
    """Why a dataset does not build; only then is its annotation file read a second time."""
    scope = DefaultScope.get_current_instance()
    places = []
    for dataset in innermost_datasets(settings):
        path = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
        places.append(path or str(dict(dataset.get('data_prefix') or {})))
        classes = class_names(dataset, dataset_class(dataset, scope and scope.scope_name))
        if path.endswith('.json') and classes:
            content, findings = read_annotations(path)
            if content is not None:
                findings = check_annotations(content, path, classes)
            if found := first_fatal(findings):
                return f'{found.file}: {found.problem}; {found.remedy}'
    reason = str(error) if isinstance(error, UserError) else one_line(error)
    if 'at least one array' in reason:  # mmengine cannot pack an empty list
        reason = _NO_IMAGE
    return f'dataset {", ".join(places)} does not load: {reason}'


@contextmanager
def _errors_of_workers() -> Iterator[None]:
    """Loader processes send an error with its traceback; keep its message."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).rsplit('UserError: ', 1)[-1].strip()) from None

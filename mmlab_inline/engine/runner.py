"""mmengine's runner, with one line where settings or data fail."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import wraps
from itertools import chain

import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS, OPTIMIZERS, DefaultScope
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..datasets.checked_loading import check_loading, innermost
from ..datasets.checks import check_annotations, innermost_datasets, read_annotations
from ..datasets.checks.finding import first_fatal
from ..datasets.checks.settings import class_names, dataset_class
from ..runs import (
    check_metric_names,
    confine_autocast,
    prepare_metrics,
    silenced,
    tidy_screen,
    without_contradictions,
)
from ..runs.seeding import prefer_deterministic_algorithms
from ..utils import UserError, did_you_mean, one_line
from .allocator import return_freed_memory
from .model import errors_of_build

_NO_IMAGE = 'no image is left, folder, suffix, class names or filter_cfg do not fit'


def _told(build: Callable, what: str) -> Callable:
    """A method of mmengine's runner that builds, with one line where it cannot."""

    @wraps(build)
    def told(self: Runner, *args: object, **settings: object) -> object:
        with errors_of_build(what):
            return build(self, *args, **settings)

    return told


class CheckedRunner(Runner):
    """Stops with one line where a part of the run does not build, or a file does not load.

    Settings that would end in an error after an epoch or an evaluation stop it before it starts.

    ``randomness.deterministic`` only warns of what has no deterministic algorithm.
    """

    build_test_loop = _told(Runner.build_test_loop, 'test_cfg')
    build_param_scheduler = _told(Runner.build_param_scheduler, 'param_scheduler')
    build_visualizer = _told(Runner.build_visualizer, 'the visualizer')

    def set_randomness(self, *args: object, **settings: object) -> None:
        """Seed this process."""
        super().set_randomness(*args, **settings)
        if self.deterministic:
            prefer_deterministic_algorithms()

    def build_logger(self, *args: object, **settings: object) -> MMLogger:
        """Build the logger, which keeps dumps from the screen; its file has all."""
        logger = super().build_logger(*args, **settings)
        tidy_screen(logger)
        return logger

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model; its batches need not wait for what the GPU is still at.

        Raises:
            UserError: It does not build.
        """
        with errors_of_build():
            model = super().build_model(model)
        preprocessor = getattr(model, 'data_preprocessor', None)
        if isinstance(preprocessor, BaseDataPreprocessor):
            preprocessor._non_blocking = True  # not every one of mmseg and mmdet takes the keyword
        confine_autocast(model)
        return model

    def build_evaluator(self, evaluator: Evaluator | dict | list) -> Evaluator:
        """Build an evaluator, whose metrics may read annotations.

        Raises:
            UserError: It does not build, or would fail at the end.
        """
        with errors_of_build('the evaluator'), silenced():
            evaluator = super().build_evaluator(evaluator)
        prepare_metrics(evaluator)
        return_freed_memory()
        return evaluator

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop.

        Raises:
            UserError: It does not build, or is of no length.
        """
        with errors_of_build('train_cfg'):
            loop = super().build_train_loop(loop)
        for name in ('max_epochs', 'max_iters', 'val_interval'):
            number = getattr(loop, name, 1)
            if number < 1:
                raise UserError(
                    f'train_cfg.{name}={number}: it must be at least 1; beyond the end of training '
                    'val_interval evaluates once'
                )
        return loop

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the validation loop.

        Raises:
            UserError: It does not build, or does not give the metric that the run is steered by.
        """
        with errors_of_build('val_cfg'):
            loop = super().build_val_loop(loop)
        check_metric_names(getattr(loop, 'evaluator', None), self.hooks, self.param_schedulers)
        return loop

    def build_optim_wrapper(self, optim_wrapper: object) -> object:
        """Build the optimizer.

        Raises:
            UserError: It does not build.
        """
        settings = optim_wrapper.get('optimizer') if isinstance(optim_wrapper, Mapping) else None
        name = settings.get('type') if isinstance(settings, Mapping) else None
        if isinstance(name, str) and OPTIMIZERS.get(name) is None:
            # mmengine alone says that None cannot be called.
            near = did_you_mean(name, OPTIMIZERS.module_dict)
            raise UserError(f'optimizer {name} is unknown, or its package is not installed{near}')
        with errors_of_build('the optimizer (optim_wrapper)'):
            return super().build_optim_wrapper(optim_wrapper)

    def register_hook(self, hook: Hook | dict, priority: object = None) -> None:
        """Register a hook.

        Raises:
            UserError: It does not build.
        """
        name = hook.get('type') if isinstance(hook, Mapping) else hook
        with errors_of_build(f'the hook {name}'):
            super().register_hook(hook, priority)

    def call_hook(self, fn_name: str, **kwargs: object) -> None:
        """Call hooks; what they and the visualizer set up before a run may need other packages.

        Raises:
            UserError: They do not start.
        """
        with errors_of_build('a hook') if fn_name == 'before_run' else nullcontext():
            super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader, as mmengine does, on a checked dataset; for a GPU images are pinned.

        Raises:
            UserError: It does not build, or its dataset has no image or not all of its classes.
        """
        if isinstance(dataloader, dict):
            dataloader = without_contradictions(dataloader)
            dataloader.setdefault('pin_memory', torch.cuda.is_available())
            if isinstance(settings := dataloader.get('dataset'), dict):
                dataloader['dataset'] = dict(type=_build_dataset, settings=settings)
        with errors_of_build('a dataloader'):
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
        with silenced():
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

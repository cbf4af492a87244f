"""What a config says about its data: datasets inside wrappers, their classes, their loading."""

import inspect
from collections.abc import Iterator, Mapping, Sequence

from mmengine.registry import DATASETS


def innermost_datasets(dataset: Mapping | None) -> Iterator[Mapping]:
    """The settings of the datasets inside wrappers such as RepeatDataset and ConcatDataset."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for child in inner:
        yield from innermost_datasets(child)


def dataset_scope(dataset: Mapping, default: str | None) -> str:
    """The registry scope in which the dataset's type is looked up."""
    return dataset.get('_scope_') or default or 'mmengine'


def dataset_class(dataset: Mapping, default_scope: str | None) -> type | None:
    """The class that the dataset's type names, or None."""
    name = dataset.get('type')
    if not isinstance(name, str):
        return name
    return DATASETS.get(name if '.' in name else f'{dataset_scope(dataset, default_scope)}.{name}')


def class_names(dataset: Mapping, cls: type | None) -> Sequence[str] | None:
    """The class names of a dataset: its own, or those of its class."""
    own = (dataset.get('metainfo') or {}).get('classes')
    return getattr(cls, 'METAINFO', {}).get('classes') if own is None else own


def transforms(pipeline: object, name: str) -> Iterator[Mapping]:
    """The settings of all transforms of a type, also those inside of other transforms.

    Args:
        pipeline: The pipeline's settings.
        name: Type without scope.
    """
    if isinstance(pipeline, Mapping):
        if str(pipeline.get('type')).rsplit('.', 1)[-1] == name:
            yield pipeline
        pipeline = pipeline.values()
    elif not isinstance(pipeline, list | tuple):
        return
    for child in pipeline:
        yield from transforms(child, name)


def reduces_zero(cls: type, dataset: Mapping) -> bool:
    """Whether a segmentation dataset ignores label 0 and counts the classes from 1.

    Args:
        cls: Class of the dataset, whose default counts where the settings are silent.
        dataset: Its settings.
    """
    default = inspect.signature(cls.__init__).parameters.get('reduce_zero_label')
    return dataset.get('reduce_zero_label', default.default if default else False)

"""Class names and class counts, as far as the config alone tells."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from ...utils import counted
from .finding import Finding, fatal
from .settings import class_names, dataset_class, reduces_zero, transforms

# Their num_classes counts something else.
_OTHER_COUNTS = {'backbone', 'rpn_head', 'semantic_head', 'data_preprocessor'}


def check_classes(cfg: Config, dataset: Mapping) -> list[Finding]:
    """Check a dataset's settings against themselves and against the model's heads.

    Reads no data.

    Args:
        cfg: The config.
        dataset: Settings of one dataset of it, not of a wrapper.
    """
    findings = []
    cls = dataset_class(dataset, cfg.get('default_scope'))
    classes = class_names(dataset, cls)
    if isinstance(classes, str):
        if Path(classes).is_file():  # a file of names, one a line
            return []
        return [
            fatal(
                'classes-string',
                'config',
                f'classes={classes!r} is a string, so its {len(classes)} letters become the '
                'classes',
                f'a tuple of one name needs a comma: classes=({classes!r},)',
            )
        ]
    if classes:
        for place, count in class_counts(cfg.get('model') or {}, 'model'):
            if count != len(classes):
                findings.append(
                    fatal(
                        'num-classes',
                        'config',
                        f'{place}.num_classes={count}, but the dataset has '
                        f'{counted(len(classes), "class")}',
                        f'set {place}.num_classes={len(classes)}, or metainfo.classes of the '
                        'dataset',
                    )
                )
    if cls is not None and hasattr(cls, 'get_label_map'):  # mmseg's
        reduced = reduces_zero(cls, dataset)
        for loading in transforms(dataset.get('pipeline'), 'LoadAnnotations'):
            asked = loading.get('reduce_zero_label')
            if asked is not None and asked != reduced:
                findings.append(
                    fatal(
                        'reduce-zero-label',
                        'config',
                        f'LoadAnnotations has reduce_zero_label={asked}, its dataset {reduced}',
                        'set both alike: True where 0 marks pixels without a class (ADE20K)',
                    )
                )
    return findings


def is_background(name: str) -> bool:
    """Whether a class is what is left of a picture beside the objects: nothing to look at."""
    return name.strip(' _-').lower() in ('background', 'bg', 'back ground')


def class_counts(node: object, place: str) -> Iterator[tuple[str, int]]:
    """Where heads below a setting are told how many classes there are, dotted, and how many."""
    if isinstance(node, Mapping):
        if isinstance(node.get('num_classes'), int):
            yield place, node['num_classes']
        children = node.items()
    elif isinstance(node, list | tuple):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        if name not in _OTHER_COUNTS:
            yield from class_counts(child, f'{place}.{name}')

"""Checks before a run starts, so that what is missing is said in one line, not in a traceback."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config
from torch import nn

from ..utils import UserError, compare_state_dict, load_checkpoint, unwrap_state_dict
from .config import pretrained_settings
from .released_weights import RELEASED_WEIGHTS

_COCO = (
    'get train2017, val2017 and annotations of COCO 2017 from https://cocodataset.org/#download '
    'and put or link them there'
)
_ADE20K = (
    'get https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unzip it '
    'into the folder above'
)
_DATA_SOURCES = {'CocoDataset': _COCO, 'ADE20KDataset': _ADE20K}


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the data of the given splits exist.

    Args:
        cfg: The config.
        splits: Out of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: A folder or annotation file is missing; says which, and how to get it.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in _datasets(loader.get('dataset')):
            for path in _dataset_paths(dataset):
                if not path.exists():
                    # The outermost missing folder says more than the file deep inside.
                    missing = [p for p in (path, *path.parents) if not p.exists()][-1]
                    remedy = _DATA_SOURCES.get(
                        dataset.get('type'), 'put the data there or correct data_root'
                    )
                    raise UserError(
                        f'{split} data: {path} does not exist ({missing} is missing); {remedy}'
                    )


def check_pretrained(cfg: Config) -> None:
    """Check that the weights that the config asks for exist.

    Raises:
        UserError: A file is missing; names its download page.
    """
    path = str(cfg.get('load_from') or '')
    if path and '://' not in path and not Path(path).is_file():
        raise UserError(f'checkpoint {path} does not exist')
    for node in pretrained_settings(cfg):
        path = str(node['init_cfg'].get('checkpoint'))
        if '://' in path or Path(path).is_file():
            continue
        name, folder = Path(path).stem, Path(path).parent
        source = 'put the ImageNet weights there'
        if name in RELEASED_WEIGHTS:
            source = (
                f'python tools/download_weights.py {name} --out {folder} fetches it from '
                f'{RELEASED_WEIGHTS[name]}'
            )
        raise UserError(f'{path} does not exist: {source}, or add --from-scratch')


def load_weights(model: nn.Module, path: str) -> None:
    """Load a checkpoint of exactly this model.

    Raises:
        UserError: The file is missing, unreadable, or of another model.
    """
    try:
        state_dict = unwrap_state_dict(load_checkpoint(path))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(str(error)) from None
    difference = compare_state_dict(model.state_dict(), state_dict)
    if difference:
        raise UserError(f'checkpoint {path} is of another model: {difference}')
    model.load_state_dict(state_dict)


def _datasets(dataset: Mapping | None) -> Iterator[Mapping]:
    """The innermost datasets, out of wrappers such as RepeatDataset and ConcatDataset."""
    if not dataset:
        return
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for child in inner:
        yield from _datasets(child)


def _dataset_paths(dataset: Mapping) -> Iterator[Path]:
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    parts = [dataset.get('ann_file'), *prefix.values()]
    for part in [part for part in parts if part] or ['']:
        path = os.path.join(root, part)
        if path and '://' not in path:
            yield Path(path)

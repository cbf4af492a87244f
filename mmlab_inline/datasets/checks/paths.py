"""Folders and annotation files that a dataset names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .finding import Finding, fatal

_COCO = (
    'get train2017, val2017 and annotations of COCO 2017 from https://cocodataset.org/#download '
    'and put or link them there'
)
_ADE20K = (
    'get https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unzip it '
    'into the folder above'
)
_DATA_SOURCES = {'CocoDataset': _COCO, 'ADE20KDataset': _ADE20K}


def check_paths(dataset: Mapping) -> list[Finding]:
    """Check that the folders and the annotation file of a dataset exist.

    Args:
        dataset: Its settings.
    """
    findings = []
    for path in _paths(dataset):
        if not path.exists():
            # The outermost missing folder says more than the file deep inside.
            missing = [p for p in (path, *path.parents) if not p.exists()][-1]
            remedy = 'put the data there or correct data_root'
            if 'metainfo' not in dataset:  # the public set's own classes
                remedy = _DATA_SOURCES.get(dataset.get('type'), remedy)
            problem = f'{path} does not exist ({missing} is missing)'
            findings.append(fatal('data-absent', str(path), problem, remedy))
    return findings


def _paths(dataset: Mapping) -> Iterator[Path]:
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    parts = [dataset.get('ann_file'), *prefix.values()]
    for part in [part for part in parts if part] or ['']:
        path = os.path.join(root, part)
        if path and '://' not in path:
            yield Path(path)

"""Checks before a run starts, so that what is missing is said in one line, not in a traceback."""

from pathlib import Path

from mmengine.config import Config

from ..datasets.checks import check_classes, check_paths, innermost_datasets
from ..utils import UserError
from ..weights.released import RELEASED_WEIGHTS
from .config import pretrained_settings
from .model import is_own_backbone


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the data of the given splits exist, and that their classes fit the model.

    Reads no data.

    Args:
        cfg: The config.
        splits: Out of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        UserError: A folder or annotation file is missing, class names or class counts do not fit;
            says what to do.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in innermost_datasets(loader.get('dataset')):
            for finding in [*check_paths(dataset), *check_classes(cfg, dataset)]:
                raise UserError(f'{split} data: {finding.problem}; {finding.remedy}')


def check_pretrained(cfg: Config) -> None:
    """Check that the weights that the config asks for exist.

    Raises:
        UserError: A file is missing, with its download page, or a backbone here is given a URL.
    """
    path = str(cfg.get('load_from') or '')
    if path and '://' not in path and not Path(path).is_file():
        raise UserError(f'checkpoint {path} does not exist')
    for part, settings in pretrained_settings(cfg):
        path = str(settings.get('checkpoint'))
        name, folder = Path(path).stem, Path(path).parent
        if '://' in path:
            # The backbones here read files alone; mmengine fetches those of all other modules.
            if is_own_backbone(part):
                raise UserError(
                    f'init_cfg of the backbone takes no URL ({path}): fetch the file, released '
                    'ones by tools/download_weights.py, and give its path'
                )
            continue
        if Path(path).is_file():
            continue
        source = 'put the ImageNet weights there'
        if name in RELEASED_WEIGHTS:
            source = (
                f'python tools/download_weights.py {name} --out {folder} fetches it from '
                f'{RELEASED_WEIGHTS[name]}'
            )
        raise UserError(f'{path} does not exist: {source}, or add --from-scratch')

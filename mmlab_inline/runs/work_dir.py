"""The folder of a run, which no two runs ever share, and what of it can be resumed."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..utils import UserError, load_checkpoint

INTERRUPTED = 'interrupted.pth'
LAST_CHECKPOINT = 'last_checkpoint'

_CHECKPOINTS = ('epoch_*.pth', 'iter_*.pth', 'best_*.pth', INTERRUPTED, LAST_CHECKPOINT)
_RESULTS = ('report.html', 'report.json', 'metrics.json', 'curves.png', 'tensorboard')
_LOGS = '*/vis_data'
# How launchers number the processes.
_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')


def is_first_process() -> bool:
    """Whether this process is the first one, also before it has joined the others."""
    return all(os.environ.get(name, '0') == '0' for name in _RANKS)


def holds_run(folder: str | Path) -> bool:
    """Whether there is anything in a folder that another run must not mix with."""
    patterns = (*_CHECKPOINTS, *_RESULTS, f'{_LOGS}/scalars.json')
    return any(True for pattern in patterns for _ in Path(folder).glob(pattern))


def work_dir_of_training(
    folder: str, named: bool, resume: str | None = None, overwrite: bool = False
) -> str:
    """Where a training goes.

    All processes have to ask before the first one writes; mmengine joins them in between.

    Args:
        folder: Of the command line or of the config; by default named after the config.
        named: Whether the command line names it. If not, a new run goes to the first of FOLDER,
            FOLDER_2, FOLDER_3 ... that holds none, and one that is resumed to the newest of them.
        resume: None, ``'auto'`` or a checkpoint.
        overwrite: Remove the run that the folder holds.

    Raises:
        UserError: The folder that the command line names holds another run.
    """
    if overwrite:
        if is_first_process():
            clear(folder)
        return folder
    if resume == 'auto':
        return folder if named else str(_newest(Path(folder)))
    home = resume and Path(resume).resolve().parent
    if named:
        if holds_run(folder) and Path(folder).resolve() != home:
            raise UserError(
                f'{folder} holds a run already: --resume continues it, --overwrite removes it, '
                'and with another --work-dir it stays'
            )
        return folder
    if home in [path.resolve() for path in _numbered(Path(folder))]:
        return str(Path(resume).parent)
    number, free = 1, folder
    while holds_run(free):
        number += 1
        free = f'{folder}_{number}'
    if number > 1 and is_first_process():
        print(f'{folder} holds a run already (--resume continues it): this one goes to {free}')
    return free


def work_dir_of_test(folder: str, named: bool, checkpoint: str) -> str:
    """Where an evaluation goes: to the run of its checkpoint, unless the command line names it."""
    home = Path(checkpoint).parent
    return folder if named or not any(home.glob(_LOGS)) else str(home)


def iterations_done(path: str | Path) -> int:
    """How far the run of a checkpoint has come.

    Raises:
        UserError: The checkpoint holds no state of a run.
    """
    checkpoint = load_checkpoint(path, map_location='meta')
    # What mmengine's runner takes up a run from.
    needed = ('meta', 'state_dict', 'message_hub', 'optimizer')
    is_state = isinstance(checkpoint, Mapping) and all(key in checkpoint for key in needed)
    if not is_state or 'iter' not in checkpoint['meta']:
        raise UserError(
            f'checkpoint {path} holds no state of a run: --load-from {path} starts from its weights'
        )
    return checkpoint['meta']['iter']


def clear(folder: str | Path) -> None:
    """Remove what a run leaves in its folder, and nothing else."""
    folder = Path(folder)
    logs = {path.parent for path in folder.glob(_LOGS)}
    found = {path for pattern in (*_CHECKPOINTS, *_RESULTS) for path in folder.glob(pattern)}
    for path in found | logs:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _numbered(folder: Path) -> list[Path]:
    """The folders of all runs that went by default to this one, the first one first."""
    name = re.compile(rf'{re.escape(folder.name)}(_(\d+))?')
    some = folder.parent.iterdir() if folder.parent.is_dir() else ()
    found = {int(match[2] or 1): path for path in some if (match := name.fullmatch(path.name))}
    return [found[number] for number in sorted(found)]


def _newest(folder: Path) -> Path:
    """The folder whose checkpoint is the newest."""
    pointers = [path / LAST_CHECKPOINT for path in _numbered(folder)]
    pointers = [path for path in pointers if path.is_file()]
    newest = max(pointers, key=lambda path: path.stat().st_mtime, default=None)
    return newest.parent if newest else folder

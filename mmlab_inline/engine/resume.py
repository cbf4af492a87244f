"""Finding the checkpoint to continue a run from."""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from ..runs import INTERRUPTED, LAST_CHECKPOINT
from ..utils import UserError


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run.

    That is the one which ``last_checkpoint`` names, or where it is torn (says so in a line) the
    newest other one.

    Returns:
        ``None`` where the folder holds no checkpoint.

    Raises:
        UserError: All of them are torn, or the newest is a folder of shards.
    """
    work_dir = Path(work_dir)
    regular = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    others = [path for path in (*regular, work_dir / INTERRUPTED) if path.exists()]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = work_dir / LAST_CHECKPOINT
    if pointer.is_file() and (name := pointer.read_text().strip()):
        # The folder may have been moved since.
        newest = Path(name) if Path(name).exists() else work_dir / Path(name).name
        if newest.exists():
            others = [newest, *(path for path in others if not path.samefile(newest))]
    for path in others:
        if path.is_dir():
            raise UserError(
                f'{path} is a folder of shards, which --resume does not read: train anew with '
                "strategy.state_dict_cfg='full' and another --work-dir"
            )
        if is_whole(path):
            return path
        print(f'{path} is torn: trying the checkpoint before it')
    if others:
        raise UserError(
            f'every checkpoint in {work_dir} is torn; train anew, without --resume or with another '
            '--work-dir'
        )
    return None


def is_whole(path: str | Path) -> bool:
    """Whether a checkpoint is all there: a zip file whose every checksum fits; nothing is run."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, EOFError, OSError, ValueError):
        return False

"""Finding the checkpoint to continue a run from."""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from ..utils import UserError
from .checkpoint_hook import INTERRUPTED, LAST_CHECKPOINT


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of a run.

    That is the one which ``last_checkpoint`` names, or where it is torn (says so in a line) the
    newest other one.

    Returns:
        ``None`` where the folder holds no checkpoint.

    Raises:
        UserError: All of them are torn.
    """
    work_dir = Path(work_dir)
    regular = [*work_dir.glob('epoch_*.pth'), *work_dir.glob('iter_*.pth')]
    others = [path for path in (*regular, work_dir / INTERRUPTED) if path.is_file()]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    pointer = work_dir / LAST_CHECKPOINT
    if pointer.is_file():
        named = Path(pointer.read_text().strip())
        # The folder may have been moved since.
        newest = named if named.is_file() else work_dir / named.name
        if newest.is_file():
            others = [newest, *(path for path in others if not path.samefile(newest))]
    for path in others:
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

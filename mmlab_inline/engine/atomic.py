"""Files that are there in full or not at all, also after a kill and on a full disk."""

import os
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..utils import UserError

ATOMIC_BACKEND = 'mmlab_inline.atomic'


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that its name never stands for a part of it.

    The content goes to a temporary file in the same folder, is synced to the disk and then renamed
    over ``path``; the folder is synced too.

    Raises:
        UserError: It cannot be written; an older file of this name is untouched, and no temporary
            file is left.
    """
    path = Path(path)
    part = temporary(path)
    try:
        with part.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(
            f'{path} cannot be written: {error.strerror}; what was saved before is intact, '
            'put that right and continue with --resume'
        ) from None
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(folder)
    finally:
        os.close(folder)


def temporary(path: Path) -> Path:
    """Where a file lies while it is written; what a kill leaves there has no other meaning."""
    return path.with_name(f'.{path.name}.part')


@register_backend(ATOMIC_BACKEND)
class AtomicBackend(LocalBackend):
    """mmengine's backend for local files, writing by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes, making the folder if it is missing."""
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(filepath, obj)

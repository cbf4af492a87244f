"""Files that are there in full or not at all, even if the process is killed or the disk full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that its name never stands for a part of it.

    Raises:
        UserError: As in :func:`written_atomically`.
    """
    with written_atomically(path) as part:
        part.write_bytes(content)


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Where to write a file so that its name never stands for a part of it.

    That is a temporary file in the same folder, which is made if it is missing. At the end of the
    block it is synced to the disk and renamed over ``path``; the folder is synced too.

    Raises:
        UserError: It cannot be written; an older file of this name is untouched, and no temporary
            file is left.
    """
    path = Path(path)
    # What a kill leaves there has no other meaning.
    part = path.with_name(f'.{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open('rb') as file:
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f'{path} cannot be written: {error.strerror}') from None
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(folder)
    finally:
        os.close(folder)

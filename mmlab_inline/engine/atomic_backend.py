"""mmengine writing local files that are there in full or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..utils import UserError, write_atomically

ATOMIC_BACKEND = 'mmlab_inline.atomic'


@register_backend(ATOMIC_BACKEND)
class AtomicBackend(LocalBackend):
    """mmengine's backend for local files, writing by :func:`write_atomically`."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes, making the folder if it is missing.

        Raises:
            UserError: They cannot be written; an older file of this name is untouched.
        """
        with told_how_to_go_on():
            write_atomically(filepath, obj)


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Where a file cannot be written, add what the user can do then."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f'{error}; what was saved before is intact, put that right and continue with --resume'
        ) from None

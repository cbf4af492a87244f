"""Images that fail without ending the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..utils import is_for_user, one_line


class Failure(Exception):
    """Why an image fails, in words for the user."""


@contextmanager
def recorded(failures: dict[str, str] | None, name: str, what: str) -> Iterator[None]:
    """Note an exception in place of raising it.

    Args:
        failures: Gains what failed, and why; None: the exception is raised.
        name: What failed.
        what: In words, such as ``'cannot be read'``.

    Raises:
        Exception: Raised within, and for the user: what must be put right concerns all images.
    """
    try:
        yield
    except Exception as error:  # decoders, transforms and models raise all kinds
        if failures is None or is_for_user(error):
            raise
        reason = str(error) if isinstance(error, Failure) else one_line(error)
        failures[name] = f'{what}: {reason}'

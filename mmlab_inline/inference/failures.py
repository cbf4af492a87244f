"""Images that fail without ending the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..utils import UserError, one_line


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
        UserError: Raised within: what the user must put right concerns all images.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # decoders, transforms and models raise all kinds
        if failures is None:
            raise
        reason = str(error) if isinstance(error, Failure) else one_line(error)
        failures[name] = f'{what}: {reason}'

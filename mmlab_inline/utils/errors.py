"""Mistakes of the user's: one clear line and exit status 2, never a traceback."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 128 + signal.SIGINT  # exit status of a command that Ctrl-C ended


class UserError(Exception):
    """Something the user can put right; the message says what is wrong and what to do."""


def is_for_user(error: BaseException) -> bool:
    """Whether an error's message says to the user what to do.

    So does a :class:`UserError`, and an op of mmcv's that is not served without compiling it
    (``mmcv_ops/_ext.py``).
    """
    refused = isinstance(error, NotImplementedError) and 'needs a compiled mmcv' in str(error)
    return refused or isinstance(error, UserError)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print an error that is for the user as ``error: ...`` and exit with status 2.

    Ctrl-C exits with status 130, in one line too.

    With the environment variable ``MMLAB_INLINE_TRACEBACK=1`` it ends in a traceback: who plugs in
    modules of their own wants the line in them.
    """
    try:
        yield
    except KeyboardInterrupt:
        print('error: stopped by Ctrl-C', file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (UserError, NotImplementedError) as error:
        if not is_for_user(error) or os.environ.get('MMLAB_INLINE_TRACEBACK') == '1':
            raise
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


def one_line(error: Exception) -> str:
    """Last line of an error, for messages of one line; its type where that says more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and isinstance(error, (TypeError, ValueError, AssertionError)):
        return lines[-1]
    return f'{type(error).__name__}: {lines[-1] if lines else ""}'

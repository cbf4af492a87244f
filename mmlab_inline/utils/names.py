"""Errors that list the known names and suggest the nearest."""

import difflib
import inspect
from collections.abc import Iterable


def one_of(what: str, value: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of the ``known`` names.

    Raises:
        ValueError: It is not; the message lists the known names.
    """
    known = list(known)
    if value not in known:
        names = ', '.join(repr(name) for name in known)
        raise ValueError(
            f'unknown {what} {value!r}{did_you_mean(value, known)}; choose from {names}'
        )
    return value


def did_you_mean(value: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'x'?)`` with the nearest known name, or nothing when none is near.

    Args:
        value: What was given.
        known: Names.
        cutoff: How alike they must be, from 0 to 1.
    """
    near = difflib.get_close_matches(str(value), list(known), n=1, cutoff=cutoff)
    return f' (did you mean {near[0]!r}?)' if near else ''


def check_keywords(cls: type, given: Iterable[str]) -> None:
    """Refuse keywords that ``cls`` does not take.

    Raises:
        TypeError: A keyword is unknown; the message lists the known ones.
    """
    known = [name for name in inspect.signature(cls.__init__).parameters if name != 'self']
    for name in given:
        if name not in known:
            raise TypeError(
                f'{cls.__name__} has no keyword {name!r}{did_you_mean(name, known)}; '
                f'it takes {", ".join(known)}'
            )

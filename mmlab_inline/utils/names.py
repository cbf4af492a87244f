"""Errors that list the known names and suggest the nearest."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps


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


def check_keywords(init: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a constructor: refuse keywords that it does not take, and list those it does.

    A subclass may have keywords of its own and pass others on: what it passes on is checked.

    Raises:
        TypeError: (When called) a keyword is unknown; the message has the nearest and all known.
    """
    known = _keywords(init)

    @wraps(init)
    def checked(self: object, *args: object, **kwargs: object) -> None:
        unknown = [name for name in kwargs if name not in known]
        if unknown:
            _refuse(unknown, type(self), checked)
        init(self, *args, **kwargs)

    return checked


def _keywords(function: Callable) -> list[str]:
    """Those that a method takes by name."""
    _, *parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _refuse(names: Sequence[str], cls: type, init: Callable) -> None:
    """Say what ``cls`` takes: its own keywords and those of what it passes on to ``init``."""
    known = {}
    for base in cls.__mro__:
        own = vars(base).get('__init__')
        known |= dict.fromkeys(_keywords(own) if own else ())
        if own is init:
            break
    unknown = ', '.join(f'{name!r}{did_you_mean(name, known)}' for name in names)
    raise TypeError(f'{cls.__name__} has no keyword {unknown}; it takes {", ".join(known)}')

"""Numbers and flags that cannot be meant, and numbers in words."""

import math
from collections.abc import Sequence
from numbers import Integral, Real


def check_positive(**settings: float | Sequence[float] | None) -> None:
    """Refuse a setting unless it is a number above zero, a list or tuple of such, or None.

    Raises:
        ValueError: There is one; the message names it.
    """
    for name, value in settings.items():
        numbers = value if isinstance(value, (list, tuple)) else (value,)
        good = all(isinstance(n, Real) and 0 < n < math.inf for n in numbers)
        if value is not None and not good:
            raise ValueError(f'{name}={value!r} must be positive')


def check_whole(**settings: int | None) -> None:
    """Refuse a setting unless it is a whole number above zero or None.

    Raises:
        ValueError: There is one; the message names it.
    """
    for name, value in settings.items():
        if value is not None and not (is_whole(value) and value > 0):
            raise ValueError(f'{name}={value!r} must be a positive whole number')


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_flag(**settings: bool) -> None:
    """Refuse a setting unless it is True or False.

    Raises:
        ValueError: There is one, such as the text 'False'; the message names it.
    """
    for name, value in settings.items():
        if not isinstance(value, bool):
            raise ValueError(f'{name}={value!r} must be True or False')


def whole_pair(name: str, value: Sequence[int] | None) -> tuple[int, int] | None:
    """A setting such as (H, W) as a tuple; None stays None.

    Raises:
        ValueError: It is no pair of whole numbers above zero; the message names it.
    """
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f'{name}={value!r} must be two numbers, as in {name}=(12, 16)')
    check_whole(**{f'{name}[{index}]': number for index, number in enumerate(value)})
    return tuple(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 class, 2 classes, 3,000 images."""
    return f'{number:,} {noun}' + ('' if number == 1 else 'es' if noun.endswith('s') else 's')

"""Numbers that cannot be meant, and numbers in words."""

from collections.abc import Sequence
from numbers import Real


def check_positive(**settings: float | Sequence[float] | None) -> None:
    """Refuse a setting unless it is a number above zero, a list or tuple of such, or None.

    Raises:
        ValueError: There is one; the message names it.
    """
    for name, value in settings.items():
        numbers = value if isinstance(value, (list, tuple)) else (value,)
        if value is not None and not all(isinstance(n, Real) and n > 0 for n in numbers):
            raise ValueError(f'{name}={value!r} must be positive')


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 class, 2 classes, 3,000 images."""
    return f'{number:,} {noun}' + ('' if number == 1 else 'es' if noun.endswith('s') else 's')

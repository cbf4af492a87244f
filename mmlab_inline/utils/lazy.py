"""Packages whose names are imported when somebody asks for them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(package: str, places: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """A package's ``__getattr__`` (PEP 562), so that importing it does not import all it offers.

    Args:
        package: Its ``__name__``.
        places: Names by the module or package below it that has them, and which is itself found
            as an attribute.
    """
    place_of = {name: place for place, names in places.items() for name in names}

    def find(name: str) -> object:
        if name in places:
            return import_module(f'{package}.{name}')
        if name not in place_of:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        value = getattr(import_module(f'{package}.{place_of[name]}'), name)
        setattr(sys.modules[package], name, value)  # the next time nobody asks here
        return value

    return find

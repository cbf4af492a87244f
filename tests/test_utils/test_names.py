import inspect

import pytest

from mmlab_inline.utils import check_keywords, did_you_mean, one_of


class Toy:
    @check_keywords
    def __init__(self, width: int, *, depth: int = 1) -> None:
        self.size = width, depth


def test_known_name_is_returned():
    assert one_of('colour', 'red', {'red': 1, 'blue': 2}) == 'red'


def test_unknown_name_lists_all_and_suggests_the_nearest():
    with pytest.raises(ValueError) as info:
        one_of('colour', 'reed', iter(['red', 'blue']))
    expected = "unknown colour 'reed' (did you mean 'red'?); choose from 'red', 'blue'"
    assert str(info.value) == expected


def test_no_suggestion_when_nothing_is_near():
    assert did_you_mean('xyz', ['red', 'blue']) == ''
    with pytest.raises(ValueError, match="unknown colour 'xyz'; choose from 'red', 'blue'"):
        one_of('colour', 'xyz', ['red', 'blue'])


@pytest.mark.parametrize('value', [None, 3, ('red',)])
def test_value_that_is_no_name(value):
    with pytest.raises(ValueError, match='choose from'):
        one_of('colour', value, ['red', 'blue'])


def test_keywords():
    assert Toy(width=1, depth=2).size == (1, 2)
    assert inspect.signature(Toy).parameters.keys() == {'width', 'depth'}
    with pytest.raises(TypeError) as info:
        Toy(width=1, dept=2)
    expected = "Toy has no keyword 'dept' (did you mean 'depth'?); it takes width, depth"
    assert str(info.value) == expected


def test_keywords_of_subclasses():
    """Those of its own are not refused, also not where no signature names them."""

    class Passing(Toy):
        def __init__(self, colour: str = 'red', **others: object) -> None:
            self.shade = others.pop('shade', None)
            super().__init__(**others)

    class Other(Toy):
        def __init__(self, length: int) -> None:
            super().__init__(width=length)

    assert Other(length=3).size == (3, 1)
    toy = Passing(width=1, colour='blue', shade='dark')
    assert (toy.size, toy.shade) == ((1, 1), 'dark')
    expected = (
        "Passing has no keyword 'color' (did you mean 'colour'?); it takes colour, width, depth"
    )
    with pytest.raises(TypeError) as info:
        Passing(width=1, color='blue')
    assert str(info.value) == expected

import pytest

from mmlab_inline.utils import check_keywords, did_you_mean, one_of


class Toy:
    def __init__(self, width: int, *, depth: int = 1) -> None: ...


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
    check_keywords(Toy, {'width': 1, 'depth': 2})
    with pytest.raises(TypeError) as info:
        check_keywords(Toy, {'width': 1, 'dept': 2})
    expected = "Toy has no keyword 'dept' (did you mean 'depth'?); it takes width, depth"
    assert str(info.value) == expected
    with pytest.raises(TypeError, match="no keyword 'self'"):
        check_keywords(Toy, ['self'])

import pytest

from mmlab_inline.utils import check_positive


def test_positive_numbers_and_none_pass():
    check_positive(width=1, ratio=0.5, sides=(1, 2), sizes=[3], window=None)


@pytest.mark.parametrize('value', [0, -1, float('nan'), (1, 0), [2, -1], '4', (1, None), {1: 2}])
def test_others_are_named(value):
    with pytest.raises(ValueError) as info:
        check_positive(good=1, bad=value)
    assert str(info.value) == f'bad={value!r} must be positive'

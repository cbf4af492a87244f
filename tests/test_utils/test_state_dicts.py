import torch
from torch import nn

from mmlab_inline.utils import compare_state_dict


def test_equal_names_and_shapes_are_no_difference():
    own, given = nn.Linear(2, 3).state_dict(), nn.Linear(2, 3).half().state_dict()
    assert not compare_state_dict(own, given)
    with torch.device('meta'):
        assert not compare_state_dict(nn.Linear(2, 3).state_dict(), given)


def test_every_kind_of_difference():
    own = {'a': torch.zeros(1), 'b': torch.zeros(2), 'c': torch.zeros(2, 3), 'd': torch.zeros(4)}
    given = {'b': torch.zeros(2), 'c': torch.zeros(3, 2), 'd': torch.zeros(4, 1), 'e': own['a']}
    difference = compare_state_dict(own, given)
    assert difference
    assert difference.missing == ('a',)
    assert difference.unknown == ('e',)
    assert difference.reshaped == ('c (3, 2) instead of (2, 3)', 'd (4, 1) instead of (4,)')
    assert str(difference) == (
        '1 parameters missing (such as a); 1 unknown (such as e); '
        '2 of another shape (such as c (3, 2) instead of (2, 3))'
    )


def test_optional_names_may_be_absent_but_not_reshaped():
    norm = {'norm.weight': torch.zeros(2)}
    assert not compare_state_dict(norm, {}, lambda name: name.startswith('norm'))
    assert not compare_state_dict({}, norm, lambda name: name.startswith('norm'))
    other = {'norm.weight': torch.zeros(3)}
    assert compare_state_dict(norm, other, lambda name: name.startswith('norm'))

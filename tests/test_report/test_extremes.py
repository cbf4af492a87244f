import random

import pytest

from mmlab_inline.report.extremes import Extremes


@pytest.mark.parametrize('num_parts', [1, 3])
def test_keeps_what_sorting_would(num_parts):
    draw = random.Random(0)
    offered = [(draw.randrange(20), draw.randrange(3), number) for number in range(200)]
    parts = [Extremes(4) for _ in range(num_parts)]
    for index, (score, weight, number) in enumerate(offered):
        part = parts[index % num_parts]
        part.add(score, lambda number=number: [number], weight)
    whole, *others = parts
    for other in others:
        whole.merge(other)
    for found, sign in ((whole.best(), -1), (whole.worst(), 1)):
        expected = sorted(offered, key=lambda o: (sign * o[0], -o[1]))[:4]
        key = [(score, weight) for score, weight, _ in expected]
        assert [(score, offered[item[0]][1]) for score, item in found] == key
        assert all(offered[item[0]][0] == score for score, item in found)


def test_makes_only_what_it_keeps():
    extremes, made = Extremes(1), []
    for score in (5, 3, 4, 9):
        extremes.add(score, lambda score=score: made.append(score) or [score])
    assert made == [5, 3, 4, 9]
    extremes.add(4.5, lambda: made.append(4.5) or [4.5])
    assert made == [5, 3, 4, 9]


def test_few_are_shown_once():
    extremes = Extremes(4)
    for score in (1, 2, 3):
        extremes.add(score, lambda score=score: [score])
    assert [score for score, _ in extremes.worst()] == [1, 2, 3]
    assert extremes.best() == []


def test_equal_scores_fill_both_ends():
    extremes = Extremes(2)
    for name in 'abcd':
        extremes.add(0.0, lambda name=name: [name])
    shown = [item[0] for _, item in [*extremes.best(), *extremes.worst()]]
    assert sorted(shown) == ['a', 'b', 'c', 'd']

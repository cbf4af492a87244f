"""The best and the worst few of many, kept while they come by."""

import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Extremes(Generic[Item]):
    """Keeps what the few best and the few worst scores belong to.

    Args:
        count: How many of each kind.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Heaps of (rank, weight, number, score, item), the first to go on top. The number decides
        # between equals: the first one stays. As many again of the best as may be among the worst.
        self._best: list[tuple] = []
        self._worst: list[tuple] = []
        self._number = 0

    def add(self, score: float, make: Callable[[], Item], weight: float = 0) -> None:
        """Offer an item, which is made only if it is kept; of equal ones the heavier is."""
        self._number += 1
        made = []
        for heap, rank, size in self._heaps(score):
            key = (rank, weight, -self._number)
            if len(heap) < size or (heap and key > heap[0][:3]):
                made = made or [make()]
                push = heapq.heappush if len(heap) < size else heapq.heapreplace
                push(heap, (*key, score, made[0]))

    def merge(self, other: 'Extremes[Item]') -> None:
        """Take over what another one keeps."""
        pairs = zip(self._heaps(0), other._heaps(0), strict=True)
        for (mine, _, size), (theirs, _, _) in pairs:
            # Numbers of two processes may be equal, items cannot be compared.
            mine[:] = heapq.nlargest(size, [*mine, *theirs], key=_key)
            heapq.heapify(mine)

    def best(self) -> list[tuple[float, Item]]:
        """Scores and items, the highest score first, without those that are among the worst."""
        worst = {id(item) for _, item in self.worst()}
        return [entry for entry in _sorted(self._best) if id(entry[1]) not in worst][: self._count]

    def worst(self) -> list[tuple[float, Item]]:
        """Scores and items, the lowest score first."""
        return _sorted(self._worst)

    def _heaps(self, score: float) -> list[tuple[list[tuple], float, int]]:
        """Each heap with the rank of a score in it and its size."""
        return [(self._best, score, 2 * self._count), (self._worst, -score, self._count)]


def _sorted(heap: list[tuple]) -> list[tuple[float, Item]]:
    return [entry[3:] for entry in sorted(heap, key=_key, reverse=True)]


def _key(entry: tuple) -> tuple:
    return entry[:3]

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
        self.count = count
        # Heaps of (rank, weight, number, score, item), the first to go on top. The number decides
        # between equals: the first one stays.
        self._best: list[tuple] = []
        self._worst: list[tuple] = []
        self._number = 0

    def add(self, score: float, make: Callable[[], Item], weight: float = 0) -> None:
        """Offer an item, which is made only if it is kept; of equal ones the heavier is."""
        self._number += 1
        made = []
        for heap, rank in ((self._best, score), (self._worst, -score)):
            key = (rank, weight, -self._number)
            if len(heap) < self.count or key > heap[0][:3]:
                made = made or [make()]
                push = heapq.heappush if len(heap) < self.count else heapq.heapreplace
                push(heap, (*key, score, made[0]))

    def merge(self, other: 'Extremes[Item]') -> None:
        """Take over what another one keeps."""
        for mine, theirs in ((self._best, other._best), (self._worst, other._worst)):
            # Numbers of two processes may be equal, items cannot be compared.
            mine[:] = heapq.nlargest(self.count, [*mine, *theirs], key=_key)
            heapq.heapify(mine)

    def best(self) -> list[tuple[float, Item]]:
        """Scores and items, the highest score first."""
        return self._sorted(self._best)

    def worst(self) -> list[tuple[float, Item]]:
        """Scores and items, the lowest score first, without those that are among the best."""
        best = {id(item) for _, item in self.best()}
        return [entry for entry in self._sorted(self._worst) if id(entry[1]) not in best]

    def _sorted(self, heap: list[tuple]) -> list[tuple[float, Item]]:
        return [entry[3:] for entry in sorted(heap, key=_key, reverse=True)]


def _key(entry: tuple) -> tuple:
    return entry[:3]

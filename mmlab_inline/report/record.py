"""A run's own record: what mmengine has logged, over all the times it was stopped and resumed."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

# Logged beside losses and metrics.
_CLOCKS = {'time', 'data_time', 'memory'}
_COUNTS = {'epoch', 'iter', 'step'}


@dataclass(frozen=True)
class Record:
    """What a run has logged, in the order of its iterations.

    Attributes:
        train: One dict per logged iteration: ``step`` is its number, the rest are losses, the
            learning rate and times.
        evaluations: One dict per evaluation: ``step`` is the number of iterations trained before
            it (to the last logged one where mmengine counts epochs), the rest are metrics.
    """

    train: list[dict[str, float]]
    evaluations: list[dict[str, float]]

    def losses(self) -> list[str]:
        """Names of the logged losses, the total first."""
        names = dict.fromkeys(name for entry in self.train for name in entry if 'loss' in name)
        return sorted(names, key=lambda name: name != 'loss')

    def metrics(self) -> list[str]:
        """Names of the evaluated metrics."""
        return list(dict.fromkeys(name for entry in self.evaluations for name in metrics_of(entry)))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one quantity, where it was logged."""
        source = self.train if any(name in entry for entry in self.train) else self.evaluations
        points = [(entry['step'], entry[name]) for entry in source if name in entry]
        return [step for step, _ in points], [value for _, value in points]


def metrics_of(entry: dict[str, float]) -> dict[str, float]:
    """The metrics among what an evaluation logs; COCO's -1 (no such object) is left out."""
    return {
        name: float(value)
        for name, value in entry.items()
        if name not in _CLOCKS | _COUNTS
        and isinstance(value, Real)
        and not (math.isnan(value) or value == -1)
    }


def read_record(work_dir: str | Path) -> Record:
    """Read the record of a run.

    Every start of a run logs to a folder of its own. What a later one logs replaces what an earlier
    one had logged from the same iteration on, so a resumed run continues its curves and one that
    was started anew begins them again.

    Returns:
        Empty where nothing was logged.
    """
    logged: list[dict[str, float]] = []
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        entries = list(_read_entries(path))
        first = next((entry['step'] for entry in entries if _is_training(entry)), None)
        if first is not None:
            again = (i for i, e in enumerate(logged) if _is_training(e) and e['step'] >= first)
            logged = logged[: next(again, None)]
        logged += entries
    train, evaluations = [], []
    for entry in logged:
        if _is_training(entry):
            train.append(entry)
        elif metrics_of(entry):
            step = max(entry['step'], train[-1]['step'] if train else 0)
            evaluations.append({**entry, 'step': step})
    return Record(train, evaluations)


def _is_training(entry: dict[str, float]) -> bool:
    return 'lr' in entry


def _read_entries(path: Path) -> Iterator[dict[str, float]]:
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the line is being written, or the run was killed while it was
        if isinstance(entry, dict) and 'step' in entry:
            yield entry

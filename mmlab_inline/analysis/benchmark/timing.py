"""Timing forms of a subject in turns, in one process, on the same weights and inputs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...choices import FORMS, MIN_ROUNDS
from ...cli import attention_choice
from ...runs import replaced
from ...utils import UserError
from .forms import EQUAL_FORMS, form_forwards
from .subjects import Outputs, Subject
from .traffic import KeptBytes, MovedBytes

# One sample is as many calls as take this long: clocks and kernel launches are then no matter.
SAMPLE_SECONDS = 0.05

# Called with what is being done and the share of the work that is done.
Report = Callable[[str, float], None]


@dataclass
class Row:
    """What was measured of one form, at one size, in one pass.

    Attributes:
        size: (H, W).
        phase: The pass, a key of ``Subject.passes``.
        form: The form.
        seconds: Of one call, in each round; empty when it failed.
        kept_bytes: What autograd keeps for the backward pass; None without one.
        moved_bytes: What the operations read and write; None where kernels of our own or a compiler
            may hide it: on a GPU, and of the compiled form.
        peak_bytes: Largest memory that a call takes on a GPU beside weights and inputs; a CUDA
            graph keeps it between calls.
        difference: Largest difference from auto's outputs over their largest magnitude; None
            where it is not to be compared.
        error: Why it failed, else None.
    """

    size: tuple[int, int]
    phase: str
    form: str
    seconds: list[float]
    kept_bytes: int | None = None
    moved_bytes: int | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    error: str | None = None

    @property
    def median(self) -> float:
        """Median of ``seconds``; not a number when there are none."""
        return statistics.median(self.seconds) if self.seconds else float('nan')

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of ``seconds``."""
        if len(self.seconds) < 2:
            return self.median, self.median
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return first, third


def measure(
    subject: Subject,
    forms: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    rounds: int,
    limit: float,
    progress: Report = lambda text, done: None,
) -> list[Row]:
    """Time every form at every size in every pass.

    Forms take turns round by round, each round starting with another one, so that what else the
    machine does hits all alike.

    Args:
        subject: What to time.
        forms: Names in ``FORMS``, or attentions as they are written.
        sizes: (H, W) of each image or map.
        rounds: Samples per form.
        limit: Seconds after which a size and pass takes no further round, three being the least.
        progress: Told how far it is.

    Raises:
        UserError: No form runs.
    """
    models = {
        other: subject.model(other and attention_choice(other)) for other in map(_other, forms)
    }
    cells = [(size, phase) for size in sizes for phase in subject.passes]
    rows = []
    for index, (size, phase) in enumerate(cells):
        place = f'{size[0]}x{size[1]} {phase}'

        def report(text: str, share: float, index: int = index, place: str = place) -> None:
            progress(f'{place}: {text}', (index + share) / len(cells))

        cell = _Cell(subject, models, forms, size, phase)
        cell.warm_up(report)
        cell.take_turns(rounds, limit, report)
        rows.extend(cell.rows.values())
    return rows


class _Cell:
    """All forms at one size in one pass."""

    def __init__(
        self,
        subject: Subject,
        models: dict[str | None, nn.Module],
        forms: Sequence[str],
        size: tuple[int, int],
        phase: str,
    ) -> None:
        torch.compiler.reset()
        self.rows = {form: Row(size, phase, form, []) for form in forms}
        self._device = subject.device
        self._models = models
        self._prepared = {
            other: subject.prepare(model, phase, size) for other, model in models.items()
        }
        self._ready: dict[str, tuple[Callable[[], Outputs], int]] = {}

    def warm_up(self, report: Report) -> None:
        """Run each form until it can be timed; compare its outputs and weigh its memory.

        Raises:
            UserError: None runs, or a form is not of this network or device.
        """
        forwards = {form: form_forwards(self._models[_other(form)], form) for form in self.rows}
        expected = None
        # auto first: the others are compared with it.
        for number, form in enumerate(sorted(self.rows, key=lambda form: form != 'auto')):
            report(f'warming up {form}', 0.5 * number / len(self.rows))
            row = self.rows[form]
            run = partial(self._run, _other(form), forwards[form])
            captured_bytes = None
            try:
                if form == 'graph':
                    run, captured_bytes = self._device.captured(run)
                outs = run()
                if form == 'auto':
                    expected = outs
                elif outs and expected and form in EQUAL_FORMS:
                    row.difference = max(map(_difference, outs, expected))
                del outs
                kept = KeptBytes(self._models[_other(form)])
                visible = self._device.type == 'cpu' and form != 'compile'
                moved = MovedBytes() if visible else None
                with kept.counting(), moved or nullcontext():
                    seconds, row.peak_bytes = self._device.weigh(run)
                row.peak_bytes = captured_bytes or row.peak_bytes
                row.kept_bytes = kept.total or None
                row.moved_bytes = moved and moved.total
                self._ready[form] = run, max(1, round(SAMPLE_SECONDS / seconds))
            except torch.cuda.OutOfMemoryError:
                row.error = 'out of memory'
                torch.cuda.empty_cache()
            except Exception as error:
                # The first line: the compiler's last ones say how to get more of them.
                first = str(error).strip().partition('\n')[0]
                row.error = f'{type(error).__name__}: {first}'
        if not self._ready:
            raise UserError(f'{row.size[0]}x{row.size[1]} {row.phase} fails: {row.error}')

    def take_turns(self, rounds: int, limit: float, report: Report) -> None:
        """Time the forms that are ready."""
        order = list(self._ready)
        start = time.perf_counter()
        for number in range(rounds):
            if number >= MIN_ROUNDS and time.perf_counter() - start > limit:
                break
            report(f'round {number + 1} of {rounds}', 0.5 + 0.5 * number / rounds)
            for form in order:
                self.rows[form].seconds.append(self._device.seconds(*self._ready[form]))
            order = order[1:] + order[:1]

    def _run(self, other: str | None, forwards: Mapping[nn.Module, Callable]) -> Outputs:
        with replaced(forwards):
            return self._prepared[other]()


def _other(form: str) -> str | None:
    """The attention that a form is, if it is another one than the network's."""
    return None if form in FORMS and form != 'softmax' else form


def _difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()

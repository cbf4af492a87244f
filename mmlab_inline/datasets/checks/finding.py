"""One thing that is wrong, or worth knowing, about a data set."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

SEVERITIES = ('fatal', 'warning', 'note')


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and what to do.

    Attributes:
        severity: ``'fatal'``: a run stops, or learns what is wrong; ``'warning'``: data are lost or
            altered without a word; ``'note'``: works, and is worth knowing.
        kind: Name of the problem, the same for all files that have it.
        file: Image, label map, annotation file or folder; ``'config'`` for the config itself.
        problem: What is wrong.
        remedy: What to do.
    """

    severity: Literal['fatal', 'warning', 'note']
    kind: str
    file: str
    problem: str
    remedy: str


def recorder(file: str) -> tuple[list[Finding], Callable[[str, str, str, str], None]]:
    """A list of findings about a file, and a function of the rest that appends to it."""
    findings: list[Finding] = []

    def add(severity: str, kind: str, problem: str, remedy: str) -> None:
        findings.append(Finding(severity, kind, file, problem, remedy))

    return findings, add


fatal = partial(Finding, 'fatal')


def first_fatal(findings: list[Finding]) -> Finding | None:
    """The first fatal finding, or None."""
    return next((finding for finding in findings if finding.severity == 'fatal'), None)

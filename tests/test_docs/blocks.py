"""Reading the fenced blocks of a page, and comparing what they printed with what the page says."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / 'docs'


class Block(NamedTuple):
    """A program of a page.

    Attributes:
        code: The program.
        output: The block marked ``text`` right after it: lines that it prints, '' if there is none.
    """

    code: str
    output: str


def read_blocks(page: str, language: str) -> list[Block]:
    """All programs of a page in one language, in order."""
    pattern = rf'^```{language}\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?'
    found = re.findall(pattern, (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [Block(*groups) for groups in found]


def check_output(expected: str, printed: str, tolerance: float | None = None) -> None:
    """Check that the lines of a page were printed in this order, maybe with others between.

    Args:
        expected: Lines of the page.
        printed: What was printed.
        tolerance: How far numbers with a decimal point and percentages may be off, relative to
            the page's; None: numbers are not compared.
    """
    lines = iter(printed.splitlines())
    for line in expected.splitlines():
        if not any(_agree(line, other, tolerance) for other in lines):
            raise AssertionError(f'the page says\n{line}\nwhich was not printed:\n{printed}')


def _agree(expected: str, printed: str, tolerance: float | None) -> bool:
    number = (
        r'\d+\.\d+(?:e[+-]?\d+)?|\d+(?= %)' if tolerance is not None else r'\d[\d.]*(?:e-?\d+)?'
    )
    words, other_words = (
        ' '.join(re.sub(number, '#', text).split()) for text in (expected, printed)
    )
    if words != other_words:
        return False
    pairs = zip(re.findall(number, expected), re.findall(number, printed), strict=True)
    return tolerance is None or all(
        abs(float(a) - float(b)) <= tolerance * abs(float(a)) for a, b in pairs
    )

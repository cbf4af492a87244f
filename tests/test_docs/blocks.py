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
        output: What it prints: the blocks marked ``text`` up to the next program.
    """

    code: str
    output: str


def read_blocks(page: str, language: str) -> list[Block]:
    """All programs of a page in one language, in order."""
    blocks = []
    for name, text in re.findall(r'^```(\w+)\n(.*?)^```$', (DOCS / page).read_text(), re.M | re.S):
        if name == language:
            blocks.append(Block(text, ''))
        elif name == 'text':
            blocks[-1] = blocks[-1]._replace(output=blocks[-1].output + text)
    return blocks


def check_output(expected: str, printed: str, tolerance: float | None = None) -> None:
    """Check that the lines of a page were printed in this order, maybe with others between.

    Args:
        expected: Lines of the page; ``...`` stands for any text.
        printed: What was printed.
        tolerance: How far numbers may be off, relative to the page's; None: by any amount.
    """
    lines = iter(printed.splitlines())
    for line in expected.splitlines():
        if not any(_agree(line, other, tolerance) for other in lines):
            raise AssertionError(f'the page says\n{line}\nwhich was not printed:\n{printed}')


def _agree(expected: str, printed: str, tolerance: float | None) -> bool:
    number = r'\d+(?:\.\d+)?'
    words, other_words = (' '.join(re.sub(number, '0', t).split()) for t in (expected, printed))
    if not re.fullmatch(re.escape(words).replace(re.escape('...'), '.*'), other_words):
        return False
    pairs = zip(re.findall(number, expected), re.findall(number, printed), strict=False)
    return tolerance is None or all(
        abs(float(a) - float(b)) <= tolerance * float(a) for a, b in pairs
    )

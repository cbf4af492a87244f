"""Pages of HTML that need nothing beside themselves: tables that sort, figures, pictures."""

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape
from numbers import Integral, Number

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2024; --faint: #60666e;
  --line: #d8dce1; --stripe: #f5f7f9; --accent: #1f6fb4; --bar: #cfe3f4; }
@media (prefers-color-scheme: dark) { :root { --ground: #16191d; --ink: #e3e6ea; --faint: #9aa2ab;
  --line: #363c43; --stripe: #1d2126; --accent: #7db8ea; --bar: #24435f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
p { margin: .3rem 0 .8rem; max-width: 60rem; }
.note { color: var(--faint); font-size: .9rem; }
nav { margin: .8rem 0 0; }
nav a { color: var(--accent); margin-right: 1rem; text-decoration: none; }
.scroll { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: 6px;
  width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: max-content; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; }
.word { text-align: left; }
td.word { max-width: 30rem; white-space: normal; overflow-wrap: break-word; }
thead th { position: sticky; top: 0; background: var(--stripe); z-index: 1; padding: 0;
  box-shadow: 0 1px 0 var(--line); }
thead button { all: unset; cursor: pointer; display: block; padding: .4rem .7rem;
  font-weight: 600; }
thead button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
thead button::after { content: " \\2195"; color: var(--faint); opacity: .5; }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1; }
tbody tr:nth-child(even) { background: var(--stripe); }
td.bar { background: linear-gradient(to right, var(--bar) var(--share), transparent 0); }
figure { margin: .6rem 0; }
figure svg { max-width: 100%; height: auto; display: block; }
figure svg text { font-family: system-ui, "DejaVu Sans", sans-serif !important;
  fill: currentColor; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr));
  gap: 1rem; }
.pictures figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
.pictures div { display: grid; grid-template-columns: 1fr 1fr; gap: .4rem; }
.pictures img { width: 100%; display: block; border-radius: 3px; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; margin-bottom: .3rem; }
pre { overflow: auto; max-height: 40rem; padding: .8rem; background: var(--stripe);
  border-radius: 6px; font-size: .8rem; }
summary { cursor: pointer; color: var(--accent); }
@media print { .scroll, pre { max-height: none; } }
"""

# A click on a heading sorts by it, numbers from the largest, words from the first; another click
# turns the order round. What has no value stays at the end.
_SCRIPT = """
for (const button of document.querySelectorAll('thead button')) {
  button.addEventListener('click', () => {
    const heading = button.parentElement, table = heading.closest('table');
    const column = heading.cellIndex, body = table.tBodies[0];
    const key = row => row.cells[column].dataset.value;
    const rows = [...body.rows];
    const numeric = rows.every(row => key(row) === '' || !isNaN(key(row)));
    const before = heading.getAttribute('aria-sort');
    const down = before ? before === 'ascending' : numeric;
    for (const other of heading.parentElement.cells) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const compare = (a, b) => numeric ? a - b : a.localeCompare(b);
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === '' || y === '') return (x === '') - (y === '');
      return down ? compare(y, x) : compare(x, y);
    });
    body.append(...rows);
  });
}
"""


class Page:
    """A page that is built from top to bottom.

    Args:
        title: Of the page.
        facts: Short lines under the title.
    """

    def __init__(self, title: str, facts: Sequence[str] = ()) -> None:
        self._title = title
        self._facts = facts
        self._sections: list[tuple[str, str]] = []

    def add(self, heading: str, *parts: str) -> None:
        """Add a section of parts of HTML."""
        self._sections.append((heading, '\n'.join(parts)))

    def html(self) -> str:
        """The whole page."""
        names = [f'section-{number}' for number in range(len(self._sections))]
        links = ''.join(
            f'<a href="#{name}">{escape(heading)}</a>'
            for name, (heading, _) in zip(names, self._sections, strict=True)
        )
        body = '\n'.join(
            f'<section><h2 id="{name}">{escape(heading)}</h2>\n{content}\n</section>'
            for name, (heading, content) in zip(names, self._sections, strict=True)
        )
        facts = ''.join(f'<div class="note">{escape(fact)}</div>' for fact in self._facts)
        # An empty icon: browsers would ask for one otherwise.
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<link rel="icon" href="data:,"><title>{escape(self._title)}</title>\n'
            f'<style>{_STYLE}</style></head>\n<body><h1>{escape(self._title)}</h1>\n{facts}\n'
            f'<nav>{links}</nav>\n{body}\n<script>{_SCRIPT}</script></body></html>\n'
        )


def paragraph(text: str, faint: bool = False) -> str:
    """A paragraph; a faint one explains."""
    return f'<p{" class=note" if faint else ""}>{escape(text)}</p>'


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], bars: Sequence[str] = ()
) -> str:
    """A table that sorts by a click on a heading.

    Args:
        headings: Of the columns.
        rows: Cells are words or numbers; None and NaN are shown as a dash, columns of nothing else
            not at all.
        bars: Headings of columns of numbers that are drawn as bars too, each relative to its
            largest number.
    """
    rows = list(rows)
    columns = zip(headings, *rows, strict=True)
    told = [column for column in columns if not rows or any(map(_is_told, column[1:]))]
    headings, *rows = zip(*told, strict=True)
    largest = {
        column: max((_number(row[column]) or 0 for row in rows), default=0)
        for column, heading in enumerate(headings)
        if heading in bars
    }
    styles = [_format(column) for column in zip(*rows, strict=True)] or ['s'] * len(headings)
    head = ''.join(
        f'<th scope="col"{_look(style)}><button>{escape(heading)}</button></th>'
        for heading, style in zip(headings, styles, strict=True)
    )
    lines = []
    for row in rows:
        cells = zip(row, styles, map(largest.get, range(len(row))), strict=True)
        lines.append(f'<tr>{"".join(_cell(*cell) for cell in cells)}</tr>')
    body = '\n'.join(lines)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        '</table></div>'
    )


def figure(svg: str, label: str) -> str:
    """A figure, with what it shows for those who do not see it."""
    return f'<figure class="chart" role="img" aria-label="{escape(label)}">{svg}</figure>'


def pictures(captions_and_pairs: Iterable[tuple[str, bytes, bytes]]) -> str:
    """Pairs of JPEG files, truth on the left and prediction on the right; nothing of none."""
    figures = []
    for caption, *pair in captions_and_pairs:
        images = ''.join(
            f'<img alt="{kind}" title="{kind}" src="data:image/jpeg;base64,'
            f'{base64.b64encode(file).decode()}">'
            for kind, file in zip(('truth', 'prediction'), pair, strict=True)
        )
        figures.append(
            f'<figure><figcaption>{escape(caption)}</figcaption><div>{images}</div></figure>'
        )
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ''


def folded(summary: str, text: str) -> str:
    """A long text that opens on a click."""
    return f'<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>'


def _is_told(value: object) -> bool:
    return value != '' and (isinstance(value, str) or _number(value) is not None)


def _number(value: object) -> float | None:
    is_number = isinstance(value, Number) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _look(style: str) -> str:
    return ' class="word"' if style == 's' else ''


def _format(values: Iterable[object]) -> str:
    """How the numbers of a column are written; ``'s'`` where it has words."""
    if any(isinstance(value, str) for value in values):
        return 's'
    numbers = [value for value in values if _number(value) is not None]
    if all(isinstance(number, Integral) for number in numbers):
        return ',d'
    return '.3f' if max(map(abs, numbers)) <= 1 else ',.2f'


def _cell(value: object, style: str, largest: float | None) -> str:
    number = _number(value)
    look = _look(style)
    if largest and number is not None:
        look = f' class="bar" style="--share: {100 * max(number, 0) / largest:.1f}%"'
    if isinstance(value, str):
        key = text = value
    elif number is None:
        key, text = '', '–'
    else:
        key, text = str(number), format(value, style)
    return f'<td data-value="{escape(key)}"{look}>{escape(text)}</td>'

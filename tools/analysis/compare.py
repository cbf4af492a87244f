"""Put several runs side by side: metrics, cost, curves, classes, settings that differ.

    python tools/analysis/compare.py RUN RUN ... [--out PAGE.html]

RUN is a work folder. Prints the metrics and writes the rest to a page that needs nothing beside
itself. A run without a report (switched off, or ended before the first evaluation) has its
curves only.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import exit_on_user_error, write_atomically

# Metrics that are printed; the page has all.
MAX_PRINTED = 4


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Put several runs side by side.')
    parser.add_argument('runs', nargs='+', metavar='RUN', help='work folder of a run')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/compare.html'),
        metavar='PAGE.html',
        help='where the page goes (default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmlab_inline.report import compare, metrics_table, read_runs

    with exit_on_user_error():
        runs = read_runs(args.runs)
        write_atomically(args.out, compare(runs).encode())
    headings, rows = metrics_table(runs)
    table = Table(box=None, pad_edge=False)
    for column, heading in enumerate(headings[: 1 + MAX_PRINTED]):
        table.add_column(heading, justify='right' if column else 'left')
    for name, *values in rows:
        cells = ['-' if value is None else f'{value:.3f}' for value in values[:MAX_PRINTED]]
        table.add_row(name, *cells)
    Console(highlight=False, markup=False).print(table)  # names may have brackets
    print(f'{args.out} has the rest.')


if __name__ == '__main__':
    main()

"""Train and test a grid of settings, and say which is best and what it costs.

    python tools/sweep.py CONFIG --vary KEY=VALUE,VALUE... [--vary ...] [--seeds N] [--out DIR] ...

Checks every combination first, then runs one after the other, or --jobs at a time, each in a folder
of its own. The same command goes on where it was stopped, and tries again what has failed. Prints a
table; DIR has it as sweep.csv and sweep.json, and sweep.html with curves and accuracy against cost.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmlab_inline.cli import ArgumentParser, positive, varied
from mmlab_inline.utils import exit_on_user_error

# Metrics that are printed; the page has all the main ones.
MAX_PRINTED = 2


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Train and test a grid of settings.')
    parser.add_config_arguments('train_cfg.max_epochs=24')
    parser.add_argument(
        '--vary',
        type=varied,
        action='append',
        required=True,
        metavar='KEY=VALUE,...',
        help='a setting and its values, e.g. model.backbone.attention=inline,softmax; '
        'of several --vary, all combinations',
    )
    parser.add_argument(
        '--seeds', type=positive, default=1, metavar='N', help='runs of each combination, seeds 0..'
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='default: work_dirs/sweep_CONFIG-NAME'
    )
    parser.add_argument(
        '--jobs',
        type=positive,
        default=1,
        metavar='N',
        help='runs at a time, each on a GPU of its own or on its share of the CPU (default: 1)',
    )
    parser.add_argument(
        '--from-scratch', action='store_true', help='random weights instead of pretrained ones'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmlab_inline.analysis.sweep import Workers, claimed, plan, trials_of
    from mmlab_inline.engine import load_config
    from mmlab_inline.report import collect, write_sweep

    name = Path(args.config).stem
    out = args.out or Path('work_dirs', f'sweep_{name}')
    options = args.cfg_options or {}
    with exit_on_user_error():
        settings = load_config(args.config).to_dict()
        points = plan(args.config, args.vary, options, args.from_scratch)
        sweep = {**vars(args), 'out': None, 'settings': settings}  # the folder may be moved
        del sweep['jobs']  # and the machine be another
        with claimed(out, sweep) as lock:
            # As Ctrl-C does, end the runs that are going and save their state.
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
            trials = trials_of(points, args.seeds, out)
            left = [trial for trial in trials if trial.result() is None]
            print(f'{len(trials)} runs, {len(left)} of them to do, in {out}', flush=True)
            write_sweep(out, name, collect(trials, {}))
            failed = {}
            workers = Workers(
                Path(__file__).parent, args.config, args.from_scratch, lock, args.jobs
            )
            for number, (trial, reason) in enumerate(workers.run(left), 1):
                if reason:
                    failed[trial.folder] = reason
                done = f'failed: {reason}' if reason else 'is done'
                print(f'{number}/{len(left)} {trial.folder.name} {done}', flush=True)
                write_sweep(out, name, collect(trials, failed))
            rows = collect(trials, failed)
    print_table(rows)
    print(f'{out / "sweep.html"} shows curves and cost.')
    sys.exit(bool(failed))


def print_table(rows: Sequence) -> None:
    """Print what the sweep has found."""
    from mmlab_inline.report import sweep_table

    headings, lines = sweep_table(rows)
    metrics = [name.removeprefix('± ') for name in headings if name.startswith('± ')]
    table = Table(box=None, pad_edge=False)
    columns = []
    for index, heading in enumerate(headings):
        values = [line[index] for line in lines]
        is_left_out = heading.startswith('± ') or heading in metrics[MAX_PRINTED:]
        if is_left_out or all(value in (None, '') for value in values):
            continue
        spreads = [line[index + 1] if heading in metrics else None for line in lines]
        columns.append(list(map(_text, values, spreads)))
        is_words = any(isinstance(value, str) for value in values)
        table.add_column(heading, justify='left' if is_words else 'right', overflow='fold')
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    Console(highlight=False, markup=False).print(table)  # values may be in brackets


def _text(value: object, spread: float | None) -> str:
    if value is None:
        return '-'
    text = f'{value:.4g}' if isinstance(value, float) else str(value)
    return text if spread is None else f'{text} ± {spread:.2g}'


if __name__ == '__main__':
    main()

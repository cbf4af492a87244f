"""Check the data of a config before a run trips over them, or silently learns nothing.

    python tools/dataset/check.py CONFIG [--splits train val] [--workers N] [--json PATH] [--fast]

Prints every problem with its files and the remedy. Exit status 1 if a run would stop or learn what
is wrong, else 0.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.datasets.checks import Finding, check_split
from mmlab_inline.datasets.checks.finding import SEVERITIES
from mmlab_inline.utils import UserError, counted, exit_on_user_error

SPLITS = ('train', 'val', 'test')


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Check the data of a config.')
    parser.add_config_arguments("train_dataloader.dataset.data_root='data/mine/'")
    parser.add_argument(
        '--splits', nargs='+', choices=SPLITS, help='default: all that the config has'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count(),
        metavar='N',
        help='processes that read images; 0 reads them in this one (default: the number of cores)',
    )
    parser.add_argument('--json', type=Path, metavar='PATH', help='write every finding to a file')
    parser.add_argument(
        '--fast',
        action='store_true',
        help='read only the headers of images: torn files and label values go unnoticed',
    )
    parser.add_argument(
        '--show', type=int, default=3, metavar='N', help='files to print per problem (default: 3)'
    )
    args = parser.parse_args()
    if args.workers < 0 or args.show < 1:
        parser.error('--workers must be at least 0 and --show at least 1')
    return args


def main() -> int:
    args = parse_args()
    from mmlab_inline.engine import load_config

    with exit_on_user_error():
        cfg = load_config(args.config, args.cfg_options)
        present = [split for split in SPLITS if cfg.get(f'{split}_dataloader')]
        for split in args.splits or []:
            if split not in present:
                raise UserError(f'--splits {split}: the config has only {", ".join(present)} data')
        if args.json and not args.json.absolute().parent.is_dir():
            raise UserError(f'--json {args.json}: {args.json.absolute().parent} is no folder')
    found: dict[Finding, list[str]] = {}
    checked: list[tuple[object, str]] = []
    images, seconds = 0, 0.0
    for split in args.splits or present:
        settings = cfg[f'{split}_dataloader'].get('dataset')
        twin = next((name for other, name in checked if other == settings), None)
        if twin:
            print(f'{split}: the same data as {twin}')
            continue
        checked.append((settings, split))
        findings, count, reading = check_with_bar(cfg, split, args)
        print(f'{split}: {counted(count, "image")}')
        for finding in findings:
            found.setdefault(finding, []).append(split)
        images += count
        seconds += reading
    print_findings(found, args.show)
    pace = f': {1000 * seconds / images:.2f} s per thousand' if images else ''
    print(f'Read {images} images in {seconds:.1f} s{pace}.')
    if args.json:
        report = dict(
            config=args.config,
            images=images,
            seconds=seconds,
            findings=[dict(**asdict(finding), splits=splits) for finding, splits in found.items()],
        )
        args.json.write_text(json.dumps(report, indent=1))
        print(f'All findings are in {args.json}')
    return int(any(finding.severity == 'fatal' for finding in found))


def check_with_bar(
    cfg: Config, split: str, args: argparse.Namespace
) -> tuple[list[Finding], int, float]:
    """Check a split with a progress bar on stderr.

    Returns:
        The findings, the number of images, and the seconds that reading them took.
    """
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(TextColumn(split), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(split, total=None)
        seconds = start = 0.0

        def report(done: int, total: int) -> None:
            nonlocal seconds, start
            if done:
                seconds += time.perf_counter() - start
            start = time.perf_counter()
            bar.update(task, completed=done, total=total)

        findings, count = check_split(cfg, split, args.workers, args.fast, report)
    return findings, count, seconds


def print_findings(findings: Iterable[Finding], show: int) -> None:
    """Print findings by kind, the worst first, each kind with some of its files."""

    def key(finding: Finding) -> tuple[int, str]:
        return SEVERITIES.index(finding.severity), finding.kind

    counts = dict.fromkeys(SEVERITIES, 0)
    for (_, kind), group in groupby(sorted(findings, key=key), key):
        group = list(group)
        counts[group[0].severity] += len(group)
        print(f'\n{group[0].severity}: {kind} ({len(group)})')
        for finding in group[:show]:
            print(f'  {finding.file}: {finding.problem}')
        if len(group) > show:
            print(f'  ... and {len(group) - show} more (--json writes all)')
        print(f'  -> {group[0].remedy}')
    print('\n' + ', '.join(f'{count} {severity}' for severity, count in counts.items()))


if __name__ == '__main__':
    sys.exit(main())

"""Fetch the ImageNet weights that the configs start from.

    python tools/download_weights.py NAME [--out pretrained] [--url MIRROR] [--force]
    python tools/download_weights.py --list

Downloads what the authors released, continues where an interrupted download stopped, checks that it
is the model that NAME says, and converts it to OUT/NAME.pth, where the configs look. OUT/NAME.json
records the sha256 of both files; a repeated call holds them against it and downloads nothing.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import exit_on_user_error
from mmlab_inline.weights.released import RELEASED_WEIGHTS, fetch_weights


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Fetch the ImageNet weights that the configs start from.')
    parser.add_argument('name', metavar='NAME', nargs='?', choices=RELEASED_WEIGHTS)
    parser.add_argument('--list', action='store_true', help='list names and pages')
    parser.add_argument('--out', default='pretrained', metavar='DIR', help='default pretrained')
    parser.add_argument('--url', help='a mirror of the file')
    parser.add_argument(
        '--force', action='store_true', help='replace what is there, whatever was recorded'
    )
    args = parser.parse_args()
    if not args.name and not args.list:
        parser.error('which weights? --list lists them')
    return args


def main() -> None:
    args = parse_args()
    if args.list:
        for name, url in RELEASED_WEIGHTS.items():
            print(f'{name:<20}{url}')
        return
    target = Path(args.out, f'{args.name}.pth')
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with exit_on_user_error(), Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task(args.name, total=None)
            conversion = fetch_weights(
                args.name,
                args.out,
                args.url,
                args.force,
                lambda done, total: progress.update(bar, completed=done, total=total),
            )
    except KeyboardInterrupt:
        sys.exit('\ninterrupted; the same command continues')
    if conversion is None:
        print(f'{target} is there and as it was downloaded')
        return
    print(conversion.describe())
    print(f'written to  {target}')


if __name__ == '__main__':
    main()

"""Draw the set of shapes that stands in for COCO and ADE20K."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.datasets.shapes import CLASSES, write_dataset


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line; wrong ones end the program with status 2."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, metavar='ROOT', help='folder to write to')
    for split, default in (('train', 400), ('val', 100)):
        parser.add_argument(
            f'--{split}',
            type=int,
            default=default,
            metavar='N',
            help=f'pictures in the {split} split (default: %(default)s)',
        )
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[160],
        metavar='N',
        help='side, or height and width, in pixels (default: 160)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='seed of the set (default: %(default)s)'
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        default=CLASSES,
        metavar='NAME',
        help=f'shapes to draw (default: {" ".join(CLASSES)})',
    )
    parser.add_argument(
        '--force', action='store_true', help='draw over a set that is there already'
    )
    return parser.parse_args(argv)


def main() -> int:
    """Draw the set and return the exit status."""
    args = parse_args()
    bar = Progress(
        TextColumn('Drawing shapes'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    task = bar.add_task('', total=None)

    def report(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        drawn = write_dataset(
            args.root,
            num_train=args.train,
            num_val=args.val,
            size=args.size[0] if len(args.size) == 1 else args.size,
            seed=args.seed,
            classes=args.classes,
            force=args.force,
            progress=report,
        )
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    finally:
        # Stopping a bar that never started would print an empty line.
        if bar.live.is_started:
            bar.stop()
    print('Drawn:' if drawn else 'There already, nothing to do:')
    print(f'  as COCO     {args.root / "coco"}')
    print(f'  as ADE20K   {args.root / "ade" / "ADEChallengeData2016"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Compare attentions on drawn shapes: accuracy, cost, speed, and what they look at.

    python tools/compare_attentions.py [--attentions NAME ...] [--jobs N] [--out DIR] [--quick]

Trains Semantic FPN with each on a narrow InLine-PVT, three seeds, and Mask R-CNN with some of
them, two seeds (tools/sweep.py); looks at what the segmentors' attentions do
(tools/analysis/attention.py); times all in InLine-PVT-T (tools/analysis/benchmark.py). Leaves the
tables in DIR/comparison.md. The same command goes on where it was stopped.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmlab_inline.cli import ArgumentParser, positive
from mmlab_inline.datasets.demo import CLASSES, FOLDER, write_demo_dataset
from mmlab_inline.environment import usable_cores
from mmlab_inline.utils import UserError, exit_on_user_error, one_of, write_atomically

DATA = FOLDER / 'data/ade/ADEChallengeData2016'
TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs/comparison'
SEGMENTATION = CONFIGS / 'sem-fpn_inline-pvt-narrow_shapes.py'
DETECTION = CONFIGS / 'mask-rcnn_inline-pvt-narrow_shapes.py'
# InLine, its softmax twin, plain linear attention, and some of those with published dense results.
DETECTORS = ('inline', 'softmax', 'linear', 'focused', 'agent', 'l2vit', 'rala', 'mala')
# In InLine-PVT spatial_reduction is what softmax stands for.
LEFT_OUT = ('spatial_reduction',)
# Its cost grows with the square of the map.
NOT_TIMED = ('global',)
NUM_PICTURES = 4


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Compare attentions on drawn shapes.')
    parser.add_argument(
        '--attentions', nargs='+', metavar='NAME', help='default: all; inline is always among them'
    )
    parser.add_argument(
        '--jobs',
        type=positive,
        default=usable_cores(),
        metavar='N',
        help='runs at a time (default: %(default)s, one a core)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/comparison'),
        metavar='DIR',
        help='default: %(default)s',
    )
    parser.add_argument(
        '--quick', action='store_true', help='a smoke run of 2 iterations; its figures mean nothing'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmlab_inline import list_attentions
    from mmlab_inline.report.comparison import comparison

    known = list_attentions()
    chosen = args.attentions or [name for name in known if name not in LEFT_OUT]
    chosen = list(dict.fromkeys(['inline', *chosen]))
    with exit_on_user_error():
        try:
            for name in chosen:
                one_of('attention', name, known)
        except ValueError as error:
            raise UserError(str(error)) from None
        print(f'Drawing the pictures, unless they are in {FOLDER}', flush=True)
        write_demo_dataset(*((100, 20) if args.quick else ()))
        sweep(args, SEGMENTATION, chosen, args.out / 'segmentation', seeds=3)
        detectors = [name for name in chosen if name in DETECTORS]
        sweep(args, DETECTION, detectors, args.out / 'detection', seeds=2)
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda name: look(args, name), chosen))
        benchmark(args, [name for name in chosen if name not in NOT_TIMED])
        label_maps = DATA / 'annotations/validation'
        tables = comparison(args.out, label_maps, 1 + len(CLASSES))  # and the ground
        path = args.out / 'comparison.md'
        write_atomically(path, tables.encode())
    print(f'The tables are {path}; {args.out}/*/sweep.html have the curves.')


def call(tool: str, *arguments: object, **environment: str) -> None:
    """Run a tool to its end; where it fails, it has said why, and its exit status is ours."""
    command = [sys.executable, TOOLS / tool, *arguments]
    done = subprocess.run(list(map(str, command)), env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def sweep(
    args: argparse.Namespace, config: Path, names: Sequence[str], out: Path, seeds: int
) -> None:
    """Train and test with each attention."""
    options = ['--seeds', 1 if args.quick else seeds, '--jobs', args.jobs, '--out', out]
    if args.quick:
        limit = 'train_cfg.max_iters=2' if config == SEGMENTATION else 'train_cfg.max_epochs=1'
        options += ['--cfg-options', limit, 'train_dataloader.dataset.indices=16']
    call('sweep.py', config, '--vary', 'model.backbone.attention=' + ','.join(names), *options)


def look(args: argparse.Namespace, name: str) -> None:
    """Measure what the trained attention of the first seed does on a few pictures."""
    out = args.out / 'attention' / name
    (run,) = (args.out / 'segmentation').glob(f'*_attention={name}_seed=0')
    figures, trained = out / 'attention.json', run / 'result.json'
    if figures.is_file() and figures.stat().st_mtime_ns >= trained.stat().st_mtime_ns:
        return
    checkpoint = run / Path((run / 'last_checkpoint').read_text()).name  # it may have been moved
    pictures = sorted((DATA / 'images/validation').iterdir())[:NUM_PICTURES]
    call(
        *('analysis/attention.py', SEGMENTATION, *pictures),
        *('--checkpoint', checkpoint, '--grid', 1, '--out', out),
        *('--cfg-options', f'model.backbone.attention={name}'),
        OMP_NUM_THREADS='1',
    )


def benchmark(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Time InLine-PVT-T with each attention."""
    out = args.out / 'benchmark'
    if not list(out.glob('*.json')):
        others = [name for name in names if name != 'inline']
        size = ('--sizes', '64x64' if args.quick else '512x512', '--rounds', 3)
        forms = ('--forms', 'auto', *others)
        call('analysis/benchmark.py', 'backbone', 'inline-pvt-t', *size, *forms, '--out', out)


if __name__ == '__main__':
    main()

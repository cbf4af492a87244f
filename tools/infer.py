"""Look at what a detector or a segmentor sees in images and videos.

    python tools/infer.py CONFIG CHECKPOINT INPUT... [--out DIR] [--json] [--tile SIZE] ...

INPUT is an image, a folder, a quoted pattern or a video. Shows a progress bar with images per
second and leaves a picture of each image in DIR/pictures, with --json also the predictions.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmlab_inline.cli import ArgumentParser, positive
from mmlab_inline.utils import counted, exit_on_user_error
from mmlab_inline.utils.errors import INTERRUPTED


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Look at what a detector or a segmentor sees.')
    parser.add_config_arguments('model.test_cfg.rcnn.max_per_img=300')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT', help='images, folders, quoted patterns, videos'
    )
    parser.add_argument(
        '--out', default='work_dirs/infer', metavar='DIR', help='default %(default)s'
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help="also write objects in COCO's results format, or label maps as PNG",
    )
    parser.add_argument('--no-pictures', action='store_true', help='with --json: draw nothing')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='leave out objects below it; default %(default)s',
    )
    parser.add_argument(
        '--batch-size', type=positive, default=1, metavar='N', help='images that run together'
    )
    parser.add_argument('--device', help='default: the GPU, or the CPU if there is none')
    parser.add_amp_argument()
    parser.add_argument(
        '--tile',
        type=positive,
        metavar='SIZE',
        help='cut images into tiles of so many pixels a side, for images too large to run whole',
    )
    parser.add_argument(
        '--overlap',
        type=int,
        metavar='N',
        help='pixels that tiles share, at least the size of an object; default a quarter of SIZE',
    )
    args = parser.parse_args()
    if args.no_pictures and not args.json:
        parser.error('--no-pictures without --json leaves nothing to write')
    if args.overlap is not None and not args.tile:
        parser.error('--overlap needs --tile')
    if args.tile and args.overlap is None:
        args.overlap = args.tile // 4
    if args.tile and not 0 <= args.overlap < args.tile:
        parser.error(f'--overlap must be from 0 to {args.tile - 1}, less than --tile')
    return args


def main() -> None:
    args = parse_args()
    import torch

    from mmlab_inline.engine import keep_freed_memory, load_config, use_safe_loading
    from mmlab_inline.inference import (
        Predictor,
        ResultWriter,
        count_frames,
        find_sources,
        read_frames,
        recorded,
    )
    from mmlab_inline.runs import describe_amp

    use_safe_loading()
    keep_freed_memory()
    failures, left_out = {}, []
    console = Console(stderr=True)
    with exit_on_user_error():
        sources = find_sources(args.inputs, left_out)
        device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
        predictor = Predictor(
            load_config(args.config, args.cfg_options),
            args.checkpoint,
            device,
            batch_size=args.batch_size,
            score_thr=args.score_thr,
            tile=args.tile,
            overlap=args.overlap or 0,
            amp=args.amp,
        )
        if args.amp:
            print(describe_amp(device))
        writer = ResultWriter(args.out, predictor, not args.no_pictures, args.json)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[rate]}'),
            TimeRemainingColumn(),
        )
        start, count, total = time.perf_counter(), 0, count_frames(sources)
        whole = interrupted = False
        try:
            with Progress(*columns, console=console) as progress:
                bar = progress.add_task('', total=total, rate='')
                frames = read_frames(sources, predictor.read_image, failures)
                for frame, prediction in predictor(frames, failures):
                    with recorded(failures, frame.file_name, 'cannot be written'):
                        writer.add(frame, prediction)
                        count += 1
                    rate = count / (time.perf_counter() - start)
                    progress.update(bar, completed=count, rate=f'{rate:.1f} images/s')
            whole = True
        except KeyboardInterrupt:
            interrupted = True
        finally:
            said = writer.finish()
            seconds = time.perf_counter() - start
            speed = f'{counted(count, "image")} in {seconds:.1f} s ({count / seconds:.1f} images/s)'
            print(speed, *said, sep='; ')
            print_what_is_missing(left_out, failures)
            if interrupted or (count and not whole):
                print(
                    f'error: stopped after {count} of {total} images; the results are of these '
                    'alone, run again for all',
                    file=sys.stderr,
                )
    sys.exit(INTERRUPTED if interrupted else int(bool(failures)))


def print_what_is_missing(left_out: Sequence[Path], failures: Mapping[str, str]) -> None:
    """Files that are no images, and images without a result."""
    if left_out:
        some = ', '.join(path.name for path in left_out[:5])
        more = f' and {len(left_out) - 5} more' if len(left_out) > 5 else ''
        print(f'no images or videos: {counted(len(left_out), "file")}, {some}{more}')
    for name, reason in failures.items():
        print(f'error: {name} {reason}', file=sys.stderr)


if __name__ == '__main__':
    main()

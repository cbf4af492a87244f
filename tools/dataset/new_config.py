"""From a folder of annotated pictures to a config that trains on it.

    python tools/dataset/new_config.py --task det|seg --data FOLDER [--out DIR] ...

Prints what is in the folder, writes a contact sheet with the annotations drawn, splits the pictures
if they are not split, and writes a config and the commands to train and test it. Nothing in FOLDER
is altered.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mmlab_inline.choices import DATA_FORMATS
from mmlab_inline.cli import ArgumentParser, positive
from mmlab_inline.datasets.checks import check_split
from mmlab_inline.utils import UserError, exit_on_user_error, write_atomically

if TYPE_CHECKING:
    from mmlab_inline.own_data.readers import OwnData


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Write a config for a folder of annotated pictures.')
    parser.add_argument(
        '--task', required=True, choices=('det', 'seg'), help='detection, or semantic segmentation'
    )
    parser.add_argument('--data', required=True, type=Path, metavar='FOLDER', help='the pictures')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='where config, annotations and contact sheet go (default: work_dirs/own/FOLDER_TASK)',
    )
    parser.add_argument('--overwrite', action='store_true', help='write over what is in DIR')
    parser.add_argument('--format', choices=DATA_FORMATS, help='default: the one that is in FOLDER')
    parser.add_argument(
        '--images', metavar='NAME', help='folder in FOLDER with the photographs (default: by name)'
    )
    parser.add_argument('--label-maps', metavar='NAME', help='folder in FOLDER with the label maps')
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names in the order of their labels; for label maps also a file of names',
    )
    parser.add_argument(
        '--keep-empty', action='store_true', help='keep classes that no picture shows'
    )
    parser.add_argument(
        '--keep-masks',
        action='store_true',
        help='where some objects have a mask, take the boxes of the others for theirs',
    )
    parser.add_argument(
        '--zero',
        choices=('ignore', 'background'),
        help='what 0 in label maps means if no name stands for it',
    )
    parser.add_argument(
        '--val-share',
        type=share,
        default=0.2,
        metavar='X',
        help='part of the pictures to evaluate on, where there is no split (default: 0.2)',
    )
    parser.add_argument('--new-split', action='store_true', help='split anew what is split')
    parser.add_argument('--seed', type=int, default=0, help='of the split (default: 0)')
    add_training_arguments(parser)
    return parser.parse_args()


def add_training_arguments(parser: ArgumentParser) -> None:
    """What the config says of model and training, beyond what the data decide."""
    parser.add_argument(
        '--base', metavar='CONFIG', help='published config to build on, by name, or a file'
    )
    parser.add_argument('--epochs', type=positive, metavar='N', help='default: by the pictures')
    parser.add_argument(
        '--patience',
        type=positive,
        metavar='N',
        help='stop after N evaluations without a better score',
    )
    parser.add_argument(
        '--short-side', type=positive, metavar='N', help='of resized pictures, pixels'
    )
    parser.add_argument('--batch-size', type=positive, metavar='N', help="default: the base's")
    parser.add_argument(
        '--frozen-stages',
        type=int,
        metavar='K',
        help='do not train the stem and the first K stages of the backbone, blocks of InLine-DeiT',
    )
    parser.add_argument(
        '--layer-decay',
        type=share,
        metavar='X',
        help='learning rate of a block over that of the next, e.g. 0.8',
    )
    parser.add_argument(
        '--load-from', type=Path, metavar='PATH', help='start from this COCO or ADE20K checkpoint'
    )
    parser.add_argument(
        '--from-scratch', action='store_true', help='random weights instead of pretrained ones'
    )


def share(text: str) -> float:
    """Type of an argument: a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number between 0 and 1')
    return value


def main() -> int:
    args = parse_args()
    from mmlab_inline.inference import legend
    from mmlab_inline.own_data import (
        Options,
        choose_base,
        draw_contact_sheet,
        find_base,
        print_summary,
        write_config,
    )
    from mmlab_inline.own_data.readers import arrange_splits, has_masks, read_folder

    console = Console()
    with exit_on_user_error():
        name = f'{args.data.absolute().name}_{args.task}'
        out = (args.out or Path('work_dirs/own', name)).absolute()
        if out.is_relative_to(args.data.absolute()):
            raise UserError(f'{out} lies in {args.data}, which stays as it is; give another --out')
        if not args.overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f'{out} exists; give another --out, or --overwrite')
        if args.load_from and not args.load_from.is_file():
            raise UserError(f'checkpoint {args.load_from} does not exist')
        data = read_folder(
            args.data,
            args.task,
            args.format,
            args.classes,
            args.zero,
            args.keep_empty,
            args.keep_masks,
            args.images,
            args.label_maps,
        )
        data.notes += arrange_splits(data, args.val_share, args.seed, args.new_split)
        base = find_base(args.base or choose_base(args.task, has_masks(data)))
        if args.task == 'det' and not has_masks(data) and needs_masks(base[1]):
            raise UserError(
                f'--base {args.base} learns masks, but not every object has one; leave it out, '
                'name a detector of boxes, or give --keep-masks where only some have none'
            )
        print_summary(data, console)
        config = out / f'{name}.py'
        options = Options(
            epochs=args.epochs,
            short_side=args.short_side,
            batch_size=args.batch_size,
            frozen_stages=args.frozen_stages,
            layer_decay=args.layer_decay,
            load_from=args.load_from,
            from_scratch=args.from_scratch,
            patience=args.patience,
        )
        write_annotations(out, data, args.task)
        unwritten = draw_contact_sheet(
            out / 'contact_sheet.png', data, args.task == 'seg', args.seed
        )
        if unwritten:
            console.print(f'note: {legend(unwritten)}', markup=False)
        write_config(config, data, args.task, base, options)
        fatal = check(config, args.data, console)
        print_next_steps(config, args, console)
    return int(fatal)


def needs_masks(cfg) -> bool:
    """Whether a detector's data have to have masks."""
    loads = [step for step in cfg.train_dataloader.dataset.pipeline if step.get('with_mask')]
    return bool(loads)


def write_annotations(out: Path, data: OwnData, task: str) -> None:
    """Write annotation files, or label maps and lists of pictures."""
    from mmlab_inline.own_data.readers import write_coco, write_label_maps

    if task == 'seg':
        write_label_maps(out / 'label_maps', data)
    for split, pictures in data.splits.items():
        if task == 'det':
            write_coco(out / f'annotations/{split}.json', data, pictures)
            continue
        names = [picture.path.relative_to(data.root).as_posix() for picture in pictures]
        write_atomically(out / f'splits/{split}.txt', ('\n'.join(names) + '\n').encode())


def check(config: Path, source: Path, console: Console) -> bool:
    """Check settings, annotations and image headers; whether a run would stop on them."""
    from mmlab_inline.engine import load_config

    cfg = load_config(str(config))
    found = check_split(cfg, 'train', fast=True)[0] + check_split(cfg, 'val', fast=True)[0]
    for severity in ('fatal', 'warning'):
        for finding in [item for item in found if item.severity == severity][:5]:
            text = f'{severity}: {finding.file}: {finding.problem} -> {finding.remedy}'
            console.print(text, markup=False, highlight=False)
    if any(finding.severity != 'note' for finding in found):
        console.print(f'Correct it in {source} and run this again with --overwrite.', markup=False)
    return any(finding.severity == 'fatal' for finding in found)


def print_next_steps(config: Path, args: argparse.Namespace, console: Console) -> None:
    """Say what was written and what to run next."""
    from mmlab_inline.engine import load_config
    from mmlab_inline.engine.config import pretrained_settings

    where = config.relative_to(Path.cwd()) if config.is_relative_to(Path.cwd()) else config
    quoted = shlex.quote(str(where))
    new_classes = ' --new-classes' if args.load_from else ''
    lines = [f'Look at {where.parent}/contact_sheet.png: are the annotations where they belong?']
    for _, settings in pretrained_settings(load_config(str(config))) if not args.load_from else ():
        path = Path(str(settings.get('checkpoint')))
        if not path.is_file():
            lines.append(
                f'{path} is not there: python tools/download_weights.py '
                f'{shlex.quote(path.stem)} fetches it'
            )
    lines += [
        'Then:',
        f'    python tools/dataset/check.py {quoted}',
        f'    python tools/train.py {quoted}{new_classes}',
    ]
    console.print('\n'.join(lines), markup=False, highlight=False, soft_wrap=True)


if __name__ == '__main__':
    sys.exit(main())

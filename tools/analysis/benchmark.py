"""Time the forms of InLine attention side by side, on random tokens or images.

    python tools/analysis/benchmark.py attention [--channels 64 --heads 2 --sizes 200x320] ...
    python tools/analysis/benchmark.py backbone inline-pvt-t [--batch 2 --sizes 512x512] ...
    python tools/analysis/benchmark.py config CONFIG [--cfg-options KEY=VALUE ...] ...

Needs no data and no pretrained weights. Each size and pass takes --rounds samples of every form, or
as many as fit into --limit seconds (two minutes; at least three rounds), beside two calls of each
that warm up. With the defaults that is two such times for attention and config, four for backbone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import DictAction
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mmlab_inline.choices import AMP_DTYPES, BACKBONES, FORMS, MIN_ROUNDS
from mmlab_inline.cli import ArgumentParser, attention_choice, image_size, positive
from mmlab_inline.utils import UserError, exit_on_user_error, write_atomically

if TYPE_CHECKING:
    from mmlab_inline.analysis.benchmark import Subject


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(
        description='Time the forms of InLine attention side by side.',
        epilog='Forms: ' + '; '.join(f'{form}: {text}' for form, text in FORMS.items()) + '.',
    )
    modes = parser.add_subparsers(dest='mode', required=True, metavar='attention|backbone|config')

    attention = modes.add_parser('attention', help='one attention module; sizes are in tokens')
    attention.add_argument(
        '--attention',
        type=attention_choice,
        default='inline',
        metavar='NAME',
        help="a name such as agent, or a literal such as \"{'type': 'agent', 'agent_num': 9}\" "
        '(default: %(default)s)',
    )
    attention.add_argument('--channels', type=positive, default=64, help='default: %(default)s')
    attention.add_argument('--heads', type=positive, default=2, help='default: %(default)s')
    attention.add_argument(
        '--qkv',
        choices=('separate', 'joint'),
        default='separate',
        help='as in InLine-PVT or in InLine-Swin (default: %(default)s)',
    )
    attention.add_argument(
        '--sr-ratio',
        type=positive,
        default=8,
        help="spatial reduction of PVT's attention, the softmax form (default: %(default)s)",
    )

    backbone = modes.add_parser('backbone', help='a backbone; sizes are in pixels')
    backbone.add_argument('name', choices=BACKBONES, metavar='NAME', help=', '.join(BACKBONES))
    backbone.add_argument(
        '--options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='keywords of the class, e.g. attention=agent with_cp=True',
    )

    config = modes.add_parser('config', help='the model of a config, predicting and training')
    config.add_config_arguments('model.backbone.arch=small')

    for mode in (attention, backbone, config):
        add_common_arguments(mode)
    return parser.parse_args()


def add_common_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=image_size,
        metavar='HxW',
        help='default: 200x320 tokens; 512x512 and 800x1280 pixels; what the config has',
    )
    parser.add_argument(
        '--batch', type=positive, help='images of a call (default: 1; config: as it trains)'
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        type=form,
        default=(),
        metavar='FORM',
        help=f'out of {", ".join(FORMS)} (default: all of the network but compile and graph), or '
        'another attention to have in every block',
    )
    parser.add_argument(
        '--rounds', type=positive, default=15, help='samples per form (default: %(default)s)'
    )
    parser.add_argument(
        '--limit',
        type=float,
        default=120,
        metavar='SECONDS',
        help=f'per size and pass; at least {MIN_ROUNDS} rounds are taken (default: %(default)s)',
    )
    parser.add_argument('--threads', type=positive, help="CPU threads (default: torch's)")
    parser.add_argument(
        '--keep-freed-memory',
        action='store_true',
        help='on a CPU: reuse freed memory of every size, as the other tools do',
    )
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: a GPU if there is one')
    parser.add_argument('--amp', choices=AMP_DTYPES, help='autocast to this dtype')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmark'),
        metavar='FOLDER',
        help='where the JSON file and the picture go (default: %(default)s)',
    )


def form(text: str) -> str:
    """Type of an argument: a form, or what :func:`attention_choice` takes."""
    attention_choice(text)
    return text


def main() -> None:
    args = parse_args()
    import torch

    from mmlab_inline.engine import keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.keep_freed_memory:
        keep_freed_memory()
    with exit_on_user_error():
        run(args)


def run(args: argparse.Namespace) -> None:
    from mmlab_inline.analysis.benchmark import (
        LEGEND,
        as_json,
        describe,
        draw,
        forms_of,
        machine,
        measure,
        tables,
    )

    subject = build_subject(args)
    stem = args.out / f'{subject.name}_{subject.device.type}'
    chosen = args.forms or forms_of(subject.model())
    forms = [form for form in FORMS if form in chosen]
    forms += [form for form in dict.fromkeys(chosen) if form not in FORMS]  # attentions
    console = Console(highlight=False, markup=False)  # errors may have brackets
    described = machine(subject.device)
    console.print(f'{subject.title}, batch {subject.batch}\n{describe(described)}\n')
    columns = TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with (
            warnings.catch_warnings(),  # of the libraries, about their own code
            Progress(*columns, console=console, transient=True) as progress,
        ):
            warnings.simplefilter('ignore')
            bar = progress.add_task('', total=1)
            rows = measure(
                subject,
                forms,
                args.sizes or subject.default_sizes,
                args.rounds,
                args.limit,
                lambda text, done: progress.update(bar, description=text, completed=done),
            )
        report = as_json(subject, rows, described, shlex.join(sys.argv))
        write_atomically(f'{stem}.json', f'{json.dumps(report, indent=2)}\n'.encode())
        draw(subject, rows, described, Path(f'{stem}.png'))
    except OSError as error:
        raise UserError(f'--out {args.out} cannot be written: {error.strerror}') from None

    for table in tables(subject, rows):
        console.print(table, '')
    console.print(LEGEND)
    for row in rows:
        if row.error:
            height, width = row.size
            console.print(f'{row.form} failed at {height}x{width} {row.phase}: {row.error}')
    console.print(f'\n{stem}.json has every sample, {stem}.png the curves.')


def build_subject(args: argparse.Namespace) -> Subject:
    from mmlab_inline.analysis.benchmark import (
        AttentionSubject,
        BackboneSubject,
        ConfigSubject,
        Device,
    )
    from mmlab_inline.engine import load_config

    device = Device.asked_for(args.device, args.amp)
    batch = args.batch
    if args.mode == 'attention':
        from mmlab_inline.mixers import Site

        joint = args.qkv == 'joint'
        site = Site(
            args.channels,
            args.heads,
            softmax_heads=args.heads if joint else max(args.heads // 2, 1),
            qkv=args.qkv,
            grid=(56, 56),
            sr_ratio=args.sr_ratio,
            window=7 if joint else None,
        )
        return AttentionSubject(device, args.attention, site, batch or 1)
    if args.mode == 'backbone':
        return BackboneSubject(device, args.name, args.options, batch or 1)
    cfg = load_config(args.config, args.cfg_options)
    return ConfigSubject(device, cfg, Path(args.config).stem, batch)


if __name__ == '__main__':
    main()

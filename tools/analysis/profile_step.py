"""Where the time of one training iteration of a config goes, on random images.

    python tools/analysis/profile_step.py CONFIG [--size 800x1344] [--batch 2] [--threads 1] ...

Prints the shares of convolutions, matrix products and so on, and of the backbone's forward pass.
Needs no data and no pretrained weights; takes three iterations.
"""

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmlab_inline.choices import AMP_DTYPES
from mmlab_inline.cli import ArgumentParser, image_size, positive
from mmlab_inline.utils import exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Where the time of one training iteration goes.')
    parser.add_config_arguments('model.backbone.arch=small')
    parser.add_argument('--size', type=image_size, metavar='HxW', help="default: the config's")
    parser.add_argument('--batch', type=positive, help="images (default: the config's)")
    parser.add_argument('--threads', type=positive, help="CPU threads (default: torch's)")
    parser.add_argument('--device', choices=('cpu', 'cuda'), help='default: a GPU if there is one')
    parser.add_argument('--amp', choices=AMP_DTYPES, help='autocast to this dtype')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it reports a missing GPU as an error
    import torch

    from mmlab_inline.analysis.benchmark import (
        ConfigSubject,
        Device,
        describe,
        machine,
        profile_call,
    )
    from mmlab_inline.engine import load_config

    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(highlight=False)
    with exit_on_user_error():
        device = Device.asked_for(args.device, args.amp)
        cfg = load_config(args.config, args.cfg_options)
        subject = ConfigSubject(device, cfg, Path(args.config).stem, args.batch)
        size = args.size or subject.default_sizes[0]
        with console.status('three training iterations'):
            kinds, parts = profile_call(subject, 'training', size)
    console.print(f'{subject.title}, batch {subject.batch}\n{describe(machine(device))}\n')
    table = Table('training iteration at {}x{}'.format(*size), 'share')
    for name, share in kinds.items():
        table.add_row(name, f'{share:.1%}')
    table.add_section()
    for name, share in parts.items():
        table.add_row(f'of these, {name}', f'{share:.1%}')
    console.print(table)


if __name__ == '__main__':
    main()

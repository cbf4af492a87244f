"""Count the parameters, FLOPs and activations of a config as published tables do.

    python tools/analysis/get_flops.py CONFIG [--shape H W] [--json] [--by-module] [--plot PNG] ...

Needs no data, no pretrained weights and no GPU; takes a second or two beside the imports.
"""

from __future__ import annotations

import argparse
import inspect
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from mmlab_inline.cli import ArgumentParser, positive
from mmlab_inline.utils import UserError, exit_on_user_error

if TYPE_CHECKING:
    from mmlab_inline.analysis.flops import Cost

# Sides in pixels of the square images that --plot counts; multiples of 32.
PLOT_SIDES = (224, 384, 512, 640, 800, 1024, 1280, 1536, 1792, 2048)


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Count the parameters, FLOPs and activations of a config.')
    parser.add_config_arguments('model.backbone.arch=small')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=positive,
        metavar=('H', 'W'),
        help='image size in pixels; default 800 1280 for detection, 512 2048 for segmentation',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.add_argument('--by-module', action='store_true', help='print the parts of the model too')
    parser.add_argument(
        '--depth', type=positive, default=3, help='levels of --by-module (default: %(default)s)'
    )
    parser.add_argument(
        '--plot',
        type=Path,
        metavar='PNG',
        help='draw the cost of the backbone, and of its softmax twin, against the image size',
    )
    args = parser.parse_args()
    if args.plot and args.plot.suffix.lower() != '.png':
        parser.error(f'--plot {args.plot}: the name must end in .png')
    return args


def main() -> None:
    args = parse_args()
    # Some libraries print while they are imported: that must not end up in the JSON.
    with exit_on_user_error(), redirect_stdout(io.StringIO()):
        from mmlab_inline.analysis.flops import CONVENTION, DEFAULT_SHAPES, count_config
        from mmlab_inline.engine import load_config

        cfg = load_config(args.config, args.cfg_options)
        costs = count_config(cfg, args.shape)
        if args.plot:
            draw_growth(cfg, args.plot)
    shape = list(args.shape or DEFAULT_SHAPES[cfg.default_scope])
    if args.json:
        report = dict(asdict(costs['']), shape=shape, convention=CONVENTION, config=args.config)
        if args.by_module:
            report['modules'] = {name: asdict(costs[name]) for name, _ in walk(costs, args.depth)}
        print(json.dumps(report))
        return

    console = Console(highlight=False)
    total = costs['']
    print(f'config       {args.config}')
    print(f'image        {shape[0]} x {shape[1]} (height x width)')
    print(f'FLOPs        {total.flops / 1e9:.1f} G')
    print(f'parameters   {total.params / 1e6:.1f} M')
    print(f'activations  {total.activations / 1e6:.1f} M')
    print()
    console.print(CONVENTION)
    if args.by_module:
        console.print()
        console.print(module_table(costs, args.depth))
    if args.plot:
        print(f'\n{args.plot} shows the cost of the backbone against the image size.')


def walk(
    costs: Mapping[str, Cost], depth: int, parent: str = '', guides: str = ''
) -> Iterator[tuple[str, str]]:
    """Names of the modules that cost something, down to ``depth`` levels, in the model's order.

    Yields:
        The qualified name, and the same drawn as a branch of the tree.
    """
    children = [
        name
        for name, cost in costs.items()
        if name and name.rpartition('.')[0] == parent and any(astuple(cost))
    ]
    for name in children:
        last = name == children[-1]
        yield name, f'{guides}{"└── " if last else "├── "}{name.rpartition(".")[2]}'
        if depth > 1:
            yield from walk(costs, depth - 1, name, guides + ('    ' if last else '│   '))


def module_table(costs: Mapping[str, Cost], depth: int) -> Table:
    """The tree of modules with what each costs, all that lies below it included."""
    table = Table('module', box=None, pad_edge=False)
    for heading in ('FLOPs (G)', 'share', 'params (M)', 'activations (M)'):
        table.add_column(heading, justify='right')
    for name, branch in [('', 'model'), *walk(costs, depth)]:
        cost = costs[name]
        table.add_row(
            branch,
            f'{cost.flops / 1e9:.2f}',
            f'{cost.flops / max(costs[""].flops, 1):.1%}',
            f'{cost.params / 1e6:.2f}',
            f'{cost.activations / 1e6:.1f}',
        )
    return table


def draw_growth(cfg: Config, path: Path) -> None:
    """Draw FLOPs of the backbone, and FLOPs per pixel, against the side of a square image.

    Raises:
        UserError: The backbone has no softmax twin, or the picture cannot be written.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    from mmlab_inline import backbones
    from mmlab_inline.analysis.flops import build_meta, count_backbone
    from mmlab_inline.engine.model import image_channels

    backbone = build_meta(cfg.model.backbone, cfg.default_scope)
    name = type(backbone).__name__
    if 'attention' not in inspect.signature(type(backbone)).parameters:
        names = ' or '.join(backbones.__all__)
        raise UserError(f'--plot: {name} has no attention to replace; take {names}')
    softmax = build_meta(dict(cfg.model.backbone, attention='softmax'), cfg.default_scope)
    channels = image_channels(cfg.model)
    curves = {
        label: [count_backbone(model, (side, side), channels).flops for side in PLOT_SIDES]
        for label, model in (('as configured', backbone), ('softmax attention throughout', softmax))
    }
    if curves['as configured'] == curves['softmax attention throughout']:
        del curves['as configured']  # it is the softmax twin itself

    arch = cfg.model.backbone.get('arch')
    title = f'{name} {arch}' if isinstance(arch, str) else name
    figure, (total, per_pixel) = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    for label, flops in curves.items():
        total.plot(PLOT_SIDES, [value / 1e9 for value in flops], 'o-', ms=4, label=label)
        shares = [value / side**2 / 1e3 for value, side in zip(flops, PLOT_SIDES, strict=True)]
        per_pixel.plot(PLOT_SIDES, shares, 'o-', ms=4, label=label)
    total.set(title=f'{title}, backbone only', ylabel='GFLOPs (multiply-accumulates)')
    per_pixel.set(title='per pixel: level where linear', ylabel='thousand FLOPs per pixel')
    for axis in (total, per_pixel):
        axis.set(xlabel='side of the square image (pixels)', xticks=(224, 512, 1024, 1536, 2048))
        axis.set_ylim(0, 1.1 * axis.dataLim.y1)
        axis.grid(alpha=0.3)
        axis.legend()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UserError(f'--plot {path} cannot be written: {error.strerror}') from None
    plt.close(figure)


if __name__ == '__main__':
    main()

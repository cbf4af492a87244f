"""Look at what the attentions of a model do on photographs, and measure it.

    python tools/analysis/attention.py CONFIG IMAGE... [--checkpoint FILE] [--out DIR] ...

Draws the weights of some queries over each photograph, and measures for each stage how many
queries are confused, how much of the weights is local, and what the block loses without it.
Leaves DIR/index.html, which needs nothing beside itself, DIR/attention.json and the maps as PNG.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mmlab_inline.cli import ArgumentParser, positive
from mmlab_inline.utils import UserError, exit_on_user_error, write_atomically

if TYPE_CHECKING:
    from mmlab_inline.inference import Frame


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Look at what the attentions of a model do.')
    parser.add_config_arguments('model.backbone.attention=agent')
    parser.add_argument(
        'images', nargs='+', metavar='IMAGE', help='images, folders or quoted patterns'
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='default: random weights')
    parser.add_argument(
        '--out', type=Path, default='work_dirs/attention', metavar='DIR', help='default %(default)s'
    )
    queries = parser.add_mutually_exclusive_group()
    queries.add_argument(
        '--query',
        action='append',
        type=point,
        metavar='X,Y',
        help='pixel of the photograph whose weights are drawn; may be repeated',
    )
    queries.add_argument(
        '--grid',
        type=positive,
        default=2,
        metavar='N',
        help='draw those of N x N pixels instead; default %(default)s',
    )
    parser.add_argument('--per-head', action='store_true', help='a map a head, not their mean')
    parser.add_argument('--seed', type=int, default=0, help='of the queries that are measured')
    parser.add_argument('--device', help='default: the GPU, or the CPU if there is none')
    # What argparse takes for a value, not for an option: -0.2,0 too, which check_queries refuses.
    parser._negative_number_matcher = re.compile(r'-[\d.]')
    return parser.parse_args()


def point(text: str) -> tuple[float, float]:
    """Type of an argument: X,Y."""
    try:
        x, y = map(float, text.split(','))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not X,Y, such as 320,200') from None
    return x, y


def check_queries(queries: Sequence[tuple[float, float]], frame: Frame) -> None:
    """Refuse queries that lie outside a photograph.

    Raises:
        UserError: One does.
    """
    height, width = frame.image.shape[:2]
    for x, y in queries:
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            raise UserError(
                f'--query {x:g},{y:g} lies outside {frame.file_name}, whose pixels are '
                f'0,0 to {width - 1},{height - 1}'
            )


def main() -> None:
    args = parse_args()
    import torch

    from mmlab_inline.analysis.attention import look, measure
    from mmlab_inline.engine import load_config, use_safe_loading
    from mmlab_inline.inference import Predictor, find_sources, read_frames, recorded
    from mmlab_inline.report.attention import (
        Photograph,
        as_json,
        attention_page,
        draw_maps,
        grid_of_queries,
        remarks,
        stage_table,
    )

    use_safe_loading()
    console = Console(highlight=False)
    with exit_on_user_error():
        sources = [source for source in find_sources(args.images) if not source.is_video]
        if not sources:
            raise UserError('there is no image among the inputs; videos are not looked at')
        device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
        cfg = load_config(args.config, args.cfg_options)
        predictor = Predictor(cfg, args.checkpoint, device)
        failures: dict[str, str] = {}
        photos = []
        frames = list(read_frames(sources, predictor.read_image, failures))
        for frame in frames:
            check_queries(args.query or (), frame)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {args.out} cannot be written: {error.strerror}') from None
        for frame in frames:
            failing = recorded(failures, frame.file_name, 'cannot be looked at')
            with console.status(frame.file_name), failing:
                inputs, shape = predictor.backbone_input(frame.image)
                photo = Photograph(frame.name, frame.image[..., ::-1], shape)
                looks = look(predictor.model.backbone, inputs)
                photo.figures = [(seen, measure(seen, args.seed)) for seen in looks]
                last = {seen.stage: seen for seen, found in photo.figures if found}
                for x, y in args.query or grid_of_queries(frame.image.shape, args.grid):
                    if not last:
                        break
                    name = f'{frame.name}_{x:g}_{y:g}.png'
                    photo.maps[name] = draw_maps(photo, (x, y), list(last.values()), args.per_head)
                    write_atomically(args.out / name, photo.maps[name])
                for seen in looks:
                    seen.forget()
                photos.append(photo)
        for name, reason in failures.items():
            print(f'error: {name} {reason}', file=sys.stderr)
        if not photos:
            sys.exit(2)
        facts = [args.config, args.checkpoint or 'random weights: no checkpoint was given']
        page = attention_page('What attentions do', facts, photos)
        content = json.dumps(as_json(photos), indent=1)
        write_atomically(args.out / 'index.html', page.encode())
        # Last: where it is, all is.
        write_atomically(args.out / 'attention.json', content.encode())
    headings, lines = stage_table(photos)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify='right')
    for line in lines:
        cells = (
            '-' if cell is None else f'{cell:.2f}' if isinstance(cell, float) else str(cell)
            for cell in line
        )
        table.add_row(*cells)
    console.print(table)
    for line in remarks(photos):
        print(line)
    print(f'{args.out / "index.html"} has the maps.')
    sys.exit(int(bool(failures)))


if __name__ == '__main__':
    main()

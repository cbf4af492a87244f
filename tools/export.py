"""Export a model to ONNX or torch.export, for any batch size, height and width.

    python tools/export.py CONFIG CHECKPOINT OUT [--format onnx|torch] [--part backbone] [--verify]

Writes OUT and prints its inputs and outputs; with --verify also how far it is from PyTorch.
"""

import argparse
import json
import time
from pathlib import Path

from mmlab_inline.choices import EXPORT_FORMATS, EXPORT_PARTS
from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import UserError, exit_on_user_error


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Export a model to ONNX or torch.export.')
    parser.add_config_arguments('model.backbone.arch=small')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', type=Path, help='file to write, .onnx or .pt2')
    parser.add_argument('--format', choices=EXPORT_FORMATS, help="default: by the file's ending")
    parser.add_argument(
        '--part', choices=EXPORT_PARTS, default='model', help='default: the whole model'
    )
    parser.add_argument(
        '--label-map', action='store_true', help='put out classes instead of logits (segmentors)'
    )
    parser.add_argument(
        '--boxes',
        action='store_true',
        help='put out boxes, scores and labels of one image instead of maps (detectors)',
    )
    parser.add_argument(
        '--no-preprocess',
        action='store_true',
        help='leave normalisation and padding to the caller',
    )
    parser.add_argument(
        '--verify', action='store_true', help='compare the file with PyTorch at three sizes'
    )
    args = parser.parse_args()
    by_suffix = {suffix: name for name, suffix in EXPORT_FORMATS.items()}
    expected = by_suffix.get(args.out.suffix)
    if expected is None or args.format not in (None, expected):
        parser.error(
            f'{args.out}: the name must end in {EXPORT_FORMATS.get(args.format, ".onnx or .pt2")}'
        )
    args.format = expected
    return args


def main() -> None:
    args = parse_args()
    from mmlab_inline.engine import load_config
    from mmlab_inline.export import (
        build_export_module,
        check_packages,
        export_program,
        save_onnx,
        save_program,
    )

    start = time.monotonic()
    with exit_on_user_error():
        check_packages(args.format)
        cfg = load_config(args.config, args.cfg_options)
        module, metadata = build_export_module(
            cfg, args.checkpoint, args.part, not args.no_preprocess, args.label_map, args.boxes
        )
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.touch()
        except OSError as error:
            raise UserError(f'{args.out} cannot be written: {error.strerror}') from None
        save = save_onnx if args.format == 'onnx' else save_program
        try:
            save(export_program(module), metadata, args.out)
        except UserError:
            if not args.out.stat().st_size:
                args.out.unlink()
            raise
        print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB', end='')
        print(f' after {time.monotonic() - start:.0f} s')
        print(f'input    {metadata["input"]}, {metadata["channel_order"]}, {metadata["values"]}')
        print(f'outputs  {", ".join(json.loads(metadata["outputs"]))}')
        if args.verify:
            verify(module, args.out)


def verify(module, path: Path) -> None:
    """Print how far a file is from PyTorch, and stop where it is too far."""
    from mmlab_inline.export import TOLERANCE, compare_export, load_export

    errors = compare_export(module, load_export(path))
    for (batch, height, width), error in errors.items():
        print(f'batch {batch}, {height} x {width} pixels: off by {error:.1e} of the largest value')
    if not max(errors.values()) <= TOLERANCE:
        raise UserError(f'{path} differs from PyTorch by more than {TOLERANCE:.0e}; do not use it')


if __name__ == '__main__':
    main()

"""Evaluate a detector (box and mask AP) or a segmentor (mIoU) on its config's test data.

    python tools/test.py CONFIG CHECKPOINT [--show-dir DIR] [--out PATH] ...

Prints the metrics and writes them to metrics.json in the work folder, with report.html beside it:
tables and figures of what was found, the best and the worst images, the cost.
"""

import argparse
import json
from pathlib import Path

from mmengine.config import Config

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import UserError, exit_on_user_error, write_atomically


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Evaluate a detector or a segmentor.')
    parser.add_config_arguments('model.test_cfg.rcnn.score_thr=0.1')
    parser.add_run_arguments()
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save predictions: a .pkl file (detection), a folder of label maps (segmentation)',
    )
    parser.add_argument('--show-dir', metavar='DIR', help='save pictures of the predictions')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='predict each image and its mirror image, and merge both: label maps and boxes',
    )
    parser.add_amp_argument()
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmlab_inline.engine import (
        check_data,
        drop_pretrained,
        end_processes,
        errors_of_other_processes,
        keep_freed_memory,
        load_run_config,
        load_weights,
        start_processes,
        use_safe_loading,
    )
    from mmlab_inline.engine.model import unwrapped_model
    from mmlab_inline.engine.runner import CheckedRunner
    from mmlab_inline.inference import enable_tta
    from mmlab_inline.report import EVALUATED
    from mmlab_inline.runs import check_leftovers, enable_amp, work_dir_of_test

    use_safe_loading()
    keep_freed_memory()
    with exit_on_user_error():
        cfg = load_run_config(args)
        if not Path(args.checkpoint).is_file():
            raise UserError(f'checkpoint {args.checkpoint} does not exist')
        cfg.work_dir = work_dir_of_test(cfg.work_dir, bool(args.work_dir), args.checkpoint)
        drop_pretrained(cfg)
        check_leftovers(cfg)
        check_data(cfg, 'test')
        if args.amp:
            print(enable_amp(cfg, train=False))
        if args.tta:
            enable_tta(cfg)
        if args.out:
            save_predictions(cfg, args.out)
        if args.show_dir:
            save_pictures(cfg, args.show_dir)

        start_processes(cfg, args.timeout)
        runner = CheckedRunner.from_cfg(cfg)
        model = unwrapped_model(runner)
        load_weights(model.module if args.tta else model, args.checkpoint)
        runner.message_hub.update_info(EVALUATED, args.checkpoint)
        with errors_of_other_processes(cfg):
            metrics = runner.test()
            end_processes()
        if runner.rank == 0:
            path = Path(runner.work_dir, 'metrics.json')
            found = {key: float(value) for key, value in metrics.items()}
            write_atomically(path, json.dumps(found, indent=1).encode())
            print(f'Metrics of {args.checkpoint} are in {path}')


def save_predictions(cfg: Config, out: str) -> None:
    """Save predictions: label maps by mmseg's metric, anything else as a pickle by mmengine's."""
    evaluator = cfg.test_evaluator
    if cfg.get('default_scope') == 'mmseg':
        evaluator.output_dir = out
        return
    if not out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {out}: predictions of a detector need a file name ending in .pkl')
    evaluators = evaluator if isinstance(evaluator, list) else [evaluator]
    cfg.test_evaluator = [*evaluators, dict(type='DumpDetResults', out_file_path=out)]


def save_pictures(cfg: Config, show_dir: str) -> None:
    """Draw every test image with its prediction below ``show_dir``."""
    folder = str(Path(show_dir).resolve())
    hook = cfg.default_hooks.setdefault('visualization', {})
    hook.update(draw=True, interval=1)
    if cfg.get('default_scope') == 'mmseg':
        cfg.visualizer.save_dir = folder  # pictures land in vis_data/vis_image below it
    else:
        hook.test_out_dir = folder


if __name__ == '__main__':
    main()

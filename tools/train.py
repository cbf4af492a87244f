"""Train a detector or a segmentor from a config.

    python tools/train.py CONFIG [--work-dir DIR] [--resume [PATH]] [--amp] ...

Prints a line with losses, learning rate and time left every few iterations, and at the end where
the checkpoint lies and the command that tests it.
"""

import argparse
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mmengine.config import Config
from mmengine.registry import RUNNERS

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import UserError, exit_on_user_error

if TYPE_CHECKING:
    from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    parser = ArgumentParser(description='Train a detector or a segmentor.')
    parser.add_config_arguments('optim_wrapper.optimizer.lr=1e-4 train_cfg.max_epochs=24')
    parser.add_run_arguments()
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='continue from PATH, or from the newest checkpoint of the work folder',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='remove the run that the work folder holds'
    )
    parser.add_argument(
        '--load-from', metavar='PATH', help='start from the weights of this checkpoint'
    )
    parser.add_argument(
        '--new-classes',
        action='store_true',
        help='with --load-from: the classes differ; tensors shaped by their number start afresh',
    )
    parser.add_amp_argument()
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by images per step over the recipe's",
    )
    parser.add_argument(
        '--accumulate', type=int, default=1, metavar='N', help='add up gradients of N batches'
    )
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='deterministic algorithms, slower; warns where there is none',
    )
    parser.add_argument(
        '--from-scratch', action='store_true', help='random weights instead of pretrained ones'
    )
    args = parser.parse_args()
    if args.overwrite and args.resume:
        parser.error('--overwrite removes what --resume continues')
    if args.accumulate < 1:
        parser.error('--accumulate must be at least 1')
    return args


def main() -> None:
    args = parse_args()
    from mmlab_inline.engine import (
        check_data,
        check_pretrained,
        drop_pretrained,
        end_processes,
        errors_of_other_processes,
        keep_freed_memory,
        load_run_config,
        prepare_load_from,
        start_processes,
        use_safe_loading,
    )
    from mmlab_inline.engine.runner import CheckedRunner
    from mmlab_inline.runs import check_leftovers, enable_amp, work_dir_of_training

    use_safe_loading()
    keep_freed_memory()
    with exit_on_user_error():
        cfg = load_run_config(args)
        if args.load_from:
            cfg.load_from = args.load_from
        cfg.work_dir = work_dir_of_training(
            cfg.work_dir, bool(args.work_dir), args.resume, args.overwrite
        )
        done = 0
        if args.resume:
            done = resume(cfg, args.resume)
        if args.from_scratch or cfg.get('load_from'):
            drop_pretrained(cfg)  # a checkpoint overrides them
        set_randomness(cfg, args.seed, args.deterministic)
        if args.accumulate > 1:
            cfg.optim_wrapper.accumulative_counts = args.accumulate
        if args.auto_scale_lr:
            enable_auto_scale_lr(cfg, args.accumulate)
        check_leftovers(cfg)
        check_pretrained(cfg)
        check_data(cfg, 'train', 'val')
        if args.new_classes and 'runner_type' in cfg:
            raise UserError('--new-classes works without a strategy only; start without FSDP')
        if args.amp:
            print(enable_amp(cfg, train=True))

    start_processes(cfg, args.timeout)
    with exit_on_user_error(), errors_of_other_processes(cfg):
        # Strategies such as FSDP need mmengine's FlexibleRunner.
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else CheckedRunner.from_cfg(cfg)
        prepare_load_from(runner, args.new_classes)
        runner.train()
        end_processes()
    if runner.rank == 0:
        print_next_step(args.config, runner, done)


def resume(cfg: Config, path: str) -> int:
    """Continue from a checkpoint, or with ``'auto'`` from the newest of the work folder.

    Returns:
        The number of iterations that have been trained.
    """
    from mmlab_inline.engine import find_checkpoint, is_whole
    from mmlab_inline.runs import iterations_done
    from mmlab_inline.utils import CheckpointError

    if path == 'auto':
        path = find_checkpoint(cfg.work_dir)
        if path is None:
            print(f'Nothing to resume in {cfg.work_dir}: a new run starts.')
            return 0
    elif not Path(path).is_file():
        raise UserError(f'checkpoint {path} does not exist')
    elif not is_whole(path):
        with suppress(CheckpointError):
            iterations_done(path)
        raise UserError(f'checkpoint {path} is torn; --resume alone takes the newest whole one')
    cfg.resume = True
    cfg.load_from = str(path)
    return iterations_done(path)


def set_randomness(cfg: Config, seed: int | None, deterministic: bool) -> None:
    """Change what was asked for, and leave the rest as the config has it."""
    cfg.randomness = {'seed': None, **(cfg.get('randomness') or {})}
    if seed is not None:
        cfg.randomness.seed = seed
    if deterministic:
        cfg.randomness.deterministic = True


def enable_auto_scale_lr(cfg: Config, accumulate: int) -> None:
    """Let mmengine scale the rate by batch * processes over the recipe's images per step."""
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise UserError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
    base, batch = cfg.auto_scale_lr.base_batch_size, cfg.train_dataloader.batch_size
    images = batch * accumulate * int(os.environ.get('WORLD_SIZE', 1))
    rate, factor = cfg.optim_wrapper.optimizer.lr, images / base
    print(
        f'--auto-scale-lr: {images} images per step, where {rate:.3g} is the rate for {base}: '
        f'{rate * factor:.3g}, linear in the images (tools/dataset/new_config.py goes by their '
        f'square root, {rate * factor**0.5:.3g})'
    )
    cfg.auto_scale_lr.enable = True
    # mmengine does not know that a step may be several batches.
    cfg.auto_scale_lr.base_batch_size /= accumulate


def print_next_step(config: str, runner: 'Runner', done: int) -> None:
    """Say where the checkpoints lie and how to test the best, or the last where none is best.

    Args:
        config: As the command line names it.
        runner: Has trained.
        done: Iterations that had been trained before.
    """
    from mmlab_inline.engine.checkpoint_hook import best_checkpoints

    work_dir = Path(runner.work_dir)
    if done and runner.iter <= done:
        loop = runner.train_loop
        length = 'max_iters' if runner.max_epochs == 1 < loop.max_iters else 'max_epochs'
        print(
            f'Nothing is left to train: the run has had its {runner.iter} iterations. To train on, '
            f'add --resume --cfg-options train_cfg.{length}=N, N above {getattr(loop, length)}.'
        )
    else:
        print('Trained.')
    last = work_dir / 'last_checkpoint'
    best, notes = best_checkpoints(runner)
    if not last.is_file() and not best:
        print('No checkpoint was written: the run is shorter than the checkpoint interval.')
        return
    checkpoint = None
    for metric, score, path in best:
        print(f'The best checkpoint is {path}, {metric} {score:.4g}.')
        checkpoint = checkpoint or path
    for note in notes:
        print(note)
    if last.is_file():
        path = last.read_text()
        print(f'The last checkpoint is {path}.')
        checkpoint = checkpoint or path
    command = shlex.join(['python', 'tools/test.py', config, str(checkpoint)])
    print(f'Test {"the best" if best else "it"} with')
    print(f'    {command}')


if __name__ == '__main__':
    main()

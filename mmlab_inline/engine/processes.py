"""Several processes, also without a GPU."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed

from ..cli import TIMEOUT
from ..registry import HOOKS
from ..utils import UserError
from .config import dicts, load_config

_SYNC_BN = ('SyncBN', 'MMSyncBN')


def check_launcher(cfg: Config) -> None:
    """Check that a launcher can do its work.

    Raises:
        UserError: It has not started this process, or there are fewer GPUs than processes.
    """
    gpus = torch.cuda.device_count()
    if cfg.launcher == 'none':
        return
    if cfg.launcher != 'pytorch':
        if gpus == 0:
            raise UserError(
                f'--launcher {cfg.launcher}: no GPU is visible; without GPUs use --launcher '
                'pytorch, which tools/dist_train.sh, dist_test.sh and slurm_train.sh do'
            )
        return
    if 'RANK' not in os.environ:
        raise UserError(
            '--launcher pytorch: this process was not started by torchrun; use '
            'tools/dist_train.sh or tools/dist_test.sh, or leave the launcher out'
        )
    processes = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if 0 < gpus < processes:
        raise UserError(
            f'{processes} processes on this machine, but {gpus} visible GPUs: start at most '
            f"{gpus}, or set CUDA_VISIBLE_DEVICES='' to run them on the CPU"
        )


def load_run_config(args: argparse.Namespace) -> Config:
    """The config of a run, with its work folder and launcher.

    Args:
        args: Of a parser with :meth:`..cli.ArgumentParser.add_config_arguments` and
            ``add_run_arguments``.

    Raises:
        UserError: As :func:`.config.load_config` and :func:`check_launcher`.
    """
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    check_launcher(cfg)
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or str(Path('work_dirs', Path(args.config).stem))
    return cfg


def start_processes(cfg: Config, timeout: int | None = None) -> None:
    """Join the other processes where there is no GPU, and prepare the config for them.

    mmengine starts a launcher's processes on GPUs only: it sets the CUDA device of each and hands
    it to DistributedDataParallel, and SyncBN refuses tensors on the CPU. Here they are connected
    by gloo before mmengine asks for it, and SyncBN becomes BN, which a line says. With a GPU only
    the timeout is set, and in one process nothing happens.

    Args:
        cfg: The config; changed in place.
        timeout: Seconds to wait for another process before the run ends; None takes those of the
            config (``env_cfg.dist_cfg.timeout``), which where it has none become :data:`TIMEOUT`.
    """
    if cfg.launcher == 'none':
        return
    timeout = timeout or cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', TIMEOUT)
    cfg.merge_from_dict({'env_cfg.dist_cfg.timeout': timeout})
    if torch.cuda.is_available():
        return
    distributed.init_process_group('gloo', timeout=timedelta(seconds=timeout))
    cfg.model_wrapper_cfg = {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
        **(cfg.get('model_wrapper_cfg') or {}),
        'device_ids': None,
    }
    layers = [node for node in dicts(cfg.get('model', {})) if node.get('type') in _SYNC_BN]
    if layers or cfg.get('sync_bn'):
        for node in layers:
            node['type'] = 'BN'
        cfg.sync_bn = None
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or []),
            dict(type='mmlab_inline.BroadcastStatisticsHook'),
        ]
        if is_main_process():
            print(
                f'SyncBN needs GPUs: in these {get_world_size()} CPU processes it is BN, which '
                'sees the batch of its own process only'
            )


def end_processes() -> None:
    """Wait for the others, the first of which may still be writing a report, and part from them.

    A process that ends while another is connected to it may abort.
    """
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


@contextmanager
def errors_of_other_processes(cfg: Config) -> Iterator[None]:
    """Say in one line that another process does not answer or has ended, where gloo notices it.

    NCCL's watchdog ends a process by itself, with a message of its own.

    Args:
        cfg: The config that :func:`start_processes` has prepared.

    Raises:
        UserError: In place of gloo's error.
    """
    try:
        yield
    except RuntimeError as error:
        if 'gloo' not in str(error):
            raise
        if 'Connection' in str(error):
            reason = 'another process has ended, its own message says why'
        else:
            reason = (
                f'another process has not answered for {cfg.env_cfg.dist_cfg.timeout} s: it hangs, '
                'or works longer than --timeout allows'
            )
        raise UserError(f'{reason}; a training continues with --resume') from error


@HOOKS.register_module()
class BroadcastStatisticsHook(Hook):
    """Evaluates all processes with the running statistics of the first one.

    They are those that its checkpoint holds. Without it each process would evaluate its share of
    the images with its own.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        """Overwrite this process's buffers."""
        for buffer in runner.model.buffers():
            broadcast(buffer)

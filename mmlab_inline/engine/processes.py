"""Several processes, also without a GPU."""

import os
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import distributed

from ..registry import HOOKS
from ..utils import UserError
from .config import dicts

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


def start_processes(cfg: Config) -> None:
    """Join the other processes where there is no GPU, and prepare the config for them.

    mmengine starts a launcher's processes on GPUs only: it sets the CUDA device of each and hands
    it to DistributedDataParallel, and SyncBN refuses tensors on the CPU. Here they are connected
    by gloo before mmengine asks for it, and SyncBN becomes BN, which a line says. With a GPU
    or in one process nothing happens.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return
    timeout = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
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

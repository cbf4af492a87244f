"""Stopping a run by SIGTERM, as clusters do before they take a machine away."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from .checkpoint_hook import save_interrupted

EXIT_STATUS = 128 + signal.SIGTERM


@HOOKS.register_module()
class TerminationHook(Hook):
    """Ends the run after the current iteration when SIGTERM has come, with its state saved.

    The state goes to ``interrupted.pth`` in the work folder, ``--resume`` continues from it, and
    the process exits with status 143 (128 + 15). During an evaluation the run ends after the
    current image, and the evaluation starts over when it is resumed. With several processes all of
    them end at the same iteration as soon as one has got the signal.

    Costs nothing in one process; among several, the sum of one number per iteration.
    """

    priority = 'LOWEST'  # after everything that an iteration changes

    def __init__(self) -> None:
        self._is_asked = False

    def before_train(self, runner: Runner) -> None:
        """Catch the signal in this process, and let the loaders' processes outlive it."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        self._previous = signal.signal(signal.SIGTERM, self._ask)
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        """Give the signal back."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._previous)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop between two training iterations."""
        self._stop_if_asked(runner, runner.iter + 1)

    def after_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop inside an evaluation."""
        self._stop_if_asked(runner, runner.iter)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self._is_asked = True

    def _stop_if_asked(self, runner: Runner, iteration: int) -> None:
        if not any_process(self._is_asked):
            return
        path = save_interrupted(runner, iteration)
        barrier()  # a launcher kills the others when the first one ends
        runner.logger.info(
            f'SIGTERM: stopped after iteration {iteration}; the state is in {path}, continue with '
            '--resume'
        )
        raise SystemExit(EXIT_STATUS)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes; they all have to ask."""
    if get_world_size() == 1:
        return flag
    count = torch.tensor(int(flag), device=get_device())
    all_reduce(count)
    return bool(count)


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a loader's process; a signal to the whole job must not end it before the run."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_run_only, daemon=True).start()
    if init is not None:
        init(worker)


def _obey_the_run_only() -> None:
    """End this process when the run itself says so, which it does before it exits."""
    run = multiprocessing.parent_process().pid
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)

"""Stopping a run by SIGTERM, as clusters do before they take a machine away, or by Ctrl-C."""

import multiprocessing
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from .checkpoint_hook import save_interrupted

# What each signal is called; the exit status is 128 more than its number.
_SIGNALS = {signal.SIGTERM: 'SIGTERM', signal.SIGINT: 'Ctrl-C'}


@HOOKS.register_module()
class TerminationHook(Hook):
    """Ends the run after the current iteration on SIGTERM or Ctrl-C, with its state saved.

    The state goes to ``interrupted.pth`` in the work folder, ``--resume`` continues from it, and
    the process exits with status 143 (128 + 15), or 130 after Ctrl-C; a second Ctrl-C ends it at
    once, with nothing saved. During an evaluation the run ends after the
    current image, and the evaluation starts over when it is resumed. With several processes all of
    them end at the same iteration, the first whose loss comes after one has got the signal.

    Costs nothing: several processes tell each other along with their losses. Without
    :class:`.NonFiniteLossHook` it is a number more per iteration, for which a GPU has to finish it.

    Attributes:
        asked: Number of the signal that this process has got, or 0.
        agreed: The largest of the processes' ``asked``, if this iteration's losses have told.
    """

    priority = 'LOWEST'  # after everything that an iteration changes

    def __init__(self) -> None:
        self.asked = 0
        self.agreed: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Catch the signals in this process, and let the loaders' processes outlive them."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        self._previous = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = partial(_init_worker, loader.worker_init_fn)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop between two training iterations."""
        agreed, self.agreed = self.agreed, None
        self._stop_if_asked(runner, runner.iter + 1, agreed)

    def after_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Stop inside an evaluation."""
        self._stop_if_asked(runner, runner.iter)

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        self.asked = signum
        if signum == signal.SIGINT:
            signal.signal(signum, signal.default_int_handler)
            print('Ctrl-C: the run ends after this step; once more ends it now', file=sys.stderr)

    def _stop_if_asked(self, runner: Runner, iteration: int, agreed: int | None = None) -> None:
        asked = largest_of_processes(self.asked) if agreed is None else agreed
        if not asked:
            return
        path = save_interrupted(runner, iteration)
        barrier()  # a launcher kills the others when the first one ends
        runner.logger.info(
            f'{_SIGNALS[asked]}: stopped after iteration {iteration}; the state is in {path}, '
            f'continue with {_resuming_command()}'
        )
        raise SystemExit(128 + asked)


def _resuming_command() -> str:
    """The command line of this run, and ``--resume``."""
    if get_world_size() > 1 or Path(sys.argv[0]).name != 'train.py':
        return '--resume'
    arguments = [word for word in sys.argv if word not in ('--resume', '--overwrite')]
    return shlex.join(['python', *arguments, '--resume'])


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any of the processes; they all have to ask."""
    return bool(largest_of_processes(int(flag)))


def largest_of_processes(number: int) -> int:
    """The largest of the processes' numbers; they all have to ask."""
    if get_world_size() == 1:
        return number
    largest = torch.tensor(number, device=get_device())
    all_reduce(largest, 'max')
    return int(largest)


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Start a loader's process; a signal to the whole job must not end it before the run."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(_SIGNALS))
    threading.Thread(target=_obey_the_run_only, daemon=True).start()
    if init is not None:
        init(worker)


def _obey_the_run_only() -> None:
    """End this process when the run itself says so, which it does before it exits."""
    run = multiprocessing.parent_process().pid
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)

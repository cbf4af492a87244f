"""What a person sees of a run; all the rest is in its log file."""

import contextlib
import io
import logging
import re
import sys
import time
import warnings
from importlib import import_module

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..registry import HOOKS

# Dumps, and what libraries say of each other or of settings that they have made themselves.
_FOR_THE_FILE = re.compile(
    r'\n-+\nSystem environment|Config:\n|Hooks will be executed|Failed to search registry|'
    r'The prefix is not set in metric class|"FileClient" will be deprecated|'
    r'"HardDiskBackend" is the alias|Exp name: |Distributed training is not used|'
    r'paramwise_options -- '
)
_WARNINGS = (
    r'(?s)Default ``avg_non_ignore`` is False',
    r'The draw is False',
    r'`reduce_zero_label` will be deprecated',
    r'__array__ implementation',
    r'This DataLoader will create',
    r'faster_coco_eval is not installed',
    r'``build_pixel_sampler`` would be deprecated',
    r'torch\.meshgrid: in an upcoming release',
)
# Longest silence of a training, seconds.
_SILENCE = 60
_REDRAW = 0.1


def tidy_screen(logger: logging.Logger) -> None:
    """Keep from the screen what nobody reads or can act on; the log file has all of it."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_for_the_screen)
    _ignore_warnings()


def import_quietly(scope: str) -> None:
    """Import a library's data sets, which print that packages are absent which they can do without.

    What fails says so where it is needed.
    """
    _ignore_warnings()
    with silenced(), contextlib.suppress(Exception):
        import_module(f'{scope}.datasets')


def _ignore_warnings() -> None:
    for message in _WARNINGS:
        warnings.filterwarnings('ignore', message=message)


def silenced() -> contextlib.AbstractContextManager:
    """Without what libraries print on their way, such as pycocotools of each file that it reads."""
    return contextlib.redirect_stdout(io.StringIO())


@HOOKS.register_module()
class ProgressHook(Hook):
    """Shows how far a training is: a bar in a terminal, from the first moment on.

    Without a terminal the first iteration is logged, and then one whenever nothing else has been
    for a minute. What is logged in addition is no part of the run's record.
    """

    priority = 'LOW'  # after the time and the losses are known, before the logger

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def before_train(self, runner: Runner) -> None:
        """Start the bar."""
        self._last = None
        self._interval = next(
            (hook.interval for hook in runner.hooks if type(hook).__name__ == 'LoggerHook'), 1
        )
        if not is_main_process() or not sys.stderr.isatty():
            return
        columns = BarColumn(), MofNCompleteColumn(), TextColumn('iterations')
        loss = TextColumn('{task.fields[loss]}')
        console = Console(stderr=True)
        # Without a thread of its own, which the loaders' processes would be forked beside.
        self._progress = Progress(
            *columns, loss, TimeRemainingColumn(), console=console, auto_refresh=False
        )
        self._handlers = [
            (handler, handler.stream)
            for handler in runner.logger.handlers
            if type(handler) is logging.StreamHandler
        ]
        self._progress.start()
        for handler, _ in self._handlers:
            handler.setStream(sys.stdout)  # rich's, which writes above the bar
        loop = runner.train_loop
        self._done = loop.iter
        self._task = self._progress.add_task(
            '', total=loop.max_iters, completed=loop.iter, loss='loading data'
        )
        self._progress.refresh()
        self._drawn = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Move the bar, or break the silence."""
        if not is_main_process():
            return
        self._done = runner.iter + 1
        now = time.monotonic()
        if self._progress is not None and now - self._drawn > _REDRAW:
            self._drawn = now
            loss = runner.message_hub.get_scalar('train/loss').current()
            self._progress.update(self._task, completed=runner.iter + 1, loss=f'loss {loss:.4g}')
            self._progress.refresh()
        if (batch_idx + 1) % self._interval == 0:
            self._last = now  # the logger speaks
        elif self._last is None or now - self._last > _SILENCE:
            self._last = now
            _, text = runner.log_processor.get_log_after_iter(runner, batch_idx, 'train')
            runner.logger.info(text)

    def after_train(self, runner: Runner) -> None:
        """End the bar."""
        self._stop()

    def __del__(self) -> None:
        self._stop()  # after an error

    def _stop(self) -> None:
        if self._progress is not None:
            for handler, stream in self._handlers:
                handler.setStream(stream)
            for task in self._progress.tasks:
                self._progress.update(task.id, completed=self._done)
            self._progress.stop()
            self._progress = None


def _is_for_the_screen(record: logging.LogRecord) -> bool:
    return _FOR_THE_FILE.match(record.getMessage()) is None

import io
import logging
import sys

import pytest
from mmengine.hooks import Hook

from mmlab_inline.runs import ProgressHook, screen, tidy_screen


def test_dumps_go_to_the_file_only(tmp_path):
    logger = logging.Logger('run')
    shown = io.StringIO()
    logger.addHandler(logging.StreamHandler(shown))
    logger.addHandler(logging.FileHandler(tmp_path / 'run.log'))
    tidy_screen(logger)
    dashes = '-' * 60
    lines = [
        f'\n{dashes}\nSystem environment: x',
        'Config:\na = 1',
        'Hooks will be executed in ...',
        'paramwise_options -- backbone.norm1.weight:lr=0.0006',
    ]
    for line in (*lines, 'Iter(train) [1/3]', 'a mistake'):
        logger.warning(line)
    for handler in logger.handlers:
        handler.flush()
    assert shown.getvalue().splitlines() == ['Iter(train) [1/3]', 'a mistake']
    written = (tmp_path / 'run.log').read_text()
    assert all(line in written for line in lines)


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Ticks(Hook):
    """Lets an iteration take so many seconds."""

    priority = 'VERY_HIGH'

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def after_train_iter(self, runner, *args, **kwargs):
        self.clock.now += self.seconds


@pytest.mark.parametrize(
    ('seconds', 'expected'),
    # 5 batches in an epoch, of which the logger itself says nothing.
    [(0.1, [1]), (25, [1, 4, 7, 10, 13]), (100, list(range(1, 16)))],
)
def test_no_silence_is_longer_than_a_minute(seconds, expected, build_run, monkeypatch):
    clock, said = Clock(), []
    monkeypatch.setattr(screen, 'time', clock)
    runner, _ = build_run()
    runner.register_hook(ProgressHook())
    runner.register_hook(Ticks(clock, seconds))
    monkeypatch.setattr(
        runner.logger, 'info', lambda text: 'loss' in text and said.append((runner.iter + 1, text))
    )
    logger_hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'LoggerHook')
    logger_hook.interval, logger_hook.ignore_last = 100, True
    monkeypatch.setattr(type(logger_hook), 'end_of_epoch', lambda *args: False)
    runner.train()
    assert [iteration for iteration, _ in said] == expected
    assert 'loss:' in said[0][1]


def test_bar_in_a_terminal(build_run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setenv('TERM', 'xterm')
    runner, _ = build_run()
    runner.register_hook(ProgressHook())
    streams = [getattr(handler, 'stream', None) for handler in runner.logger.handlers]
    runner.train()
    drawn = terminal.getvalue()
    assert 'loading data' in drawn
    assert '15/15' in drawn
    assert [getattr(handler, 'stream', None) for handler in runner.logger.handlers] == streams

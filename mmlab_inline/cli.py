"""What the command lines of all tools share; it takes no torch, so that --help comes at once."""

import argparse
import ast
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

from mmengine.config import DictAction

# Seconds that a process waits for the others before it takes them for hung. While one computes the
# metrics of a large set or reads from a slow disk, the others wait.
TIMEOUT = 1800


# What other trainers have options for, and the settings that it is here.
_SETTINGS = {
    'epochs': 'train_cfg.max_epochs=N (train_cfg.max_iters=N where training counts iterations)',
    'max-epochs': 'train_cfg.max_epochs=N',
    'iters': 'train_cfg.max_iters=N',
    'max-iters': 'train_cfg.max_iters=N',
    'batch': 'train_dataloader.batch_size=N',
    'batch-size': 'train_dataloader.batch_size=N',
    'workers': 'train_dataloader.num_workers=N',
    'num-workers': 'train_dataloader.num_workers=N',
    'lr': 'optim_wrapper.optimizer.lr=RATE',
    'lr0': 'optim_wrapper.optimizer.lr=RATE',
    'learning-rate': 'optim_wrapper.optimizer.lr=RATE',
    'weight-decay': 'optim_wrapper.optimizer.weight_decay=VALUE',
    'val-interval': 'train_cfg.val_interval=N',
}
_IMAGE_SIZE = ('imgsz', 'img-size', 'image-size')


class ArgumentParser(argparse.ArgumentParser):
    """Reports wrong input in one line, without the usage before it, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message}\n')

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse, with one line also where mmengine's action for key=value fails.

        From here on Ctrl-C prints no traceback.
        """
        sys.excepthook = partial(_without_interrupts, sys.excepthook)
        try:
            namespace, unknown = self.parse_known_args(args)
        except (ValueError, AssertionError, RecursionError):
            self.error(
                '--cfg-options takes KEY=VALUE ..., with brackets and quotes closed; dicts are '
                "written as in Python, KEY=\"[{'type': 'A'}]\""
            )
        if unknown:
            self.error(f'unrecognized arguments: {" ".join(unknown)}{self._advice(unknown[0])}')
        return namespace

    def _advice(self, unknown: str) -> str:
        """What to say in place of an option that does not exist."""
        option = unknown.partition('=')[0]
        name = option.lstrip('-').replace('_', '-').lower()
        if '--cfg-options' in self._option_string_actions:
            if name in _SETTINGS:
                return f'; say --cfg-options {_SETTINGS[name]}'
            if name in _IMAGE_SIZE:
                return (
                    '; the size stands in the pipelines of the config; '
                    'tools/dataset/new_config.py --short-side N writes one for another size'
                )
        near = difflib.get_close_matches(option, self._option_string_actions, n=1)
        return f' (did you mean {near[0]!r}?)' if near and option[:1] == '-' else ''

    def add_config_arguments(self, example: str) -> None:
        """CONFIG and --cfg-options, with an example of an option."""
        self.add_argument('config', help='config file')
        self.add_argument(
            '--cfg-options',
            nargs='+',
            action=_SettingsAction,
            metavar='KEY=VALUE',
            help=f'override settings, e.g. {example}',
        )

    def add_amp_argument(self) -> None:
        """--amp."""
        self.add_argument(
            '--amp', action='store_true', help='mixed precision: fp16 on a GPU, bf16 on a CPU'
        )

    def add_run_arguments(self) -> None:
        """What a run has beside its config; :func:`.engine.load_run_config` reads it.

        --work-dir, --launcher, --timeout, and the rank that some launchers pass as an argument.
        """
        self.add_argument(
            '--work-dir',
            help='logs and results; default work_dirs/CONFIG-NAME, for a test the folder of the '
            'run that CHECKPOINT is from',
        )
        self.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
        self.add_argument(
            '--timeout',
            type=positive,
            metavar='SECONDS',
            help='end the run when another process has not answered for so long; default '
            f'env_cfg.dist_cfg.timeout of the config, or {TIMEOUT}',
        )
        self.add_argument(
            '--local_rank', '--local-rank', action=_RankAction, type=int, help=argparse.SUPPRESS
        )


def positive(text: str) -> int:
    """Type of an argument: a whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')
    return value


def attention_choice(text: str) -> object:
    """Type of an argument: the name of an attention, or a Python literal as configs have it."""
    if text.isidentifier():
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no name and no Python literal such as {{'type': 'agent', 'agent_num': 9}}"
        ) from None


def varied(text: str) -> tuple[str, dict[str, object]]:
    """Type of an argument: KEY=VALUE,VALUE..., each value read as --cfg-options reads it.

    Returns:
        The key, and the values by how they were written.
    """
    key, equals, values = text.partition('=')
    try:
        texts = [value.strip() for value in _top_level(values)]
        found = {value: _SettingsAction._parse_iterable(value) for value in texts}
    except (ValueError, AssertionError, RecursionError):
        raise argparse.ArgumentTypeError(
            f'{text!r}: brackets and quotes are to be closed, and dicts written as in Python'
        ) from None
    if not key or not equals or '' in texts:
        raise argparse.ArgumentTypeError(f'{text!r} is not KEY=VALUE,VALUE...')
    if len(set(map(repr, found.values()))) < len(texts):  # 1 is True, and yet another setting
        raise argparse.ArgumentTypeError(f'{text!r} has a value twice')
    return key, found


def _top_level(text: str) -> list[str]:
    """Split at the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [''], 0, ''
    for char in text:
        if quote:
            quote = '' if char == quote else quote
        elif char in '"\'':
            quote = char
        else:
            depth += (char in '([{') - (char in ')]}')
        if depth < 0:
            break
        if char == ',' and not depth and not quote:
            parts.append('')
        else:
            parts[-1] += char
    if depth or quote:
        raise ValueError(text)
    return parts


def image_size(text: str) -> tuple[int, int]:
    """Type of an argument: HxW."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is not HxW, such as 512x512')
    return int(match[1]), int(match[2])


def _without_interrupts(hook: Callable, kind: type, error: BaseException, trace: object) -> None:
    """The hook for what nobody has caught, less the traceback of Ctrl-C."""
    if issubclass(kind, KeyboardInterrupt):
        print('error: stopped by Ctrl-C', file=sys.stderr)
    else:
        hook(kind, error, trace)


class _SettingsAction(DictAction):
    """mmengine's action for KEY=VALUE, which also takes Python literals: dicts, blanks."""

    @staticmethod
    def _parse_iterable(val: str) -> object:
        if val[:1] in ('[', '(', '{', '"', "'"):
            with suppress(ValueError, SyntaxError):
                return ast.literal_eval(val)
        if '{' in val or 'dict(' in val:
            raise ValueError(val)
        if ' ' in val and not set(val) & set('[](),'):
            return val  # mmengine would take the blanks out of a path
        return DictAction._parse_iterable(val)


class _RankAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))  # where mmengine looks

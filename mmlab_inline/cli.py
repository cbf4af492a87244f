"""What the command lines of all tools share; it takes no torch, so that --help comes at once."""

import argparse
import ast
import os
import re
from collections.abc import Sequence
from typing import NoReturn

from mmengine.config import DictAction

# Seconds that a process waits for the others before it takes them for hung. While one computes the
# metrics of a large set or reads from a slow disk, the others wait.
TIMEOUT = 1800


class ArgumentParser(argparse.ArgumentParser):
    """Reports wrong input in one line, without the usage before it, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message}\n')

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse, with one line also where mmengine's action for key=value fails."""
        try:
            return super().parse_args(args)
        except (ValueError, AssertionError, RecursionError):
            self.error(
                '--cfg-options takes KEY=VALUE ..., with brackets and quotes closed; '
                'of a dict each key by itself: KEY.type=NAME KEY.option=VALUE'
            )

    def add_config_arguments(self, example: str) -> None:
        """CONFIG and --cfg-options, with an example of an option."""
        self.add_argument('config', help='config file')
        self.add_argument(
            '--cfg-options',
            nargs='+',
            action=DictAction,
            metavar='KEY=VALUE',
            help=f'override settings, e.g. {example}',
        )

    def add_run_arguments(self) -> None:
        """What a run has beside its config; :func:`.engine.load_run_config` reads it.

        --work-dir, --launcher, --timeout, and the rank that some launchers pass as an argument.
        """
        self.add_argument('--work-dir', help='logs and results; default work_dirs/CONFIG-NAME')
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


def image_size(text: str) -> tuple[int, int]:
    """Type of an argument: HxW."""
    match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text!r} is not HxW, such as 512x512')
    return int(match[1]), int(match[2])


class _RankAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))  # where mmengine looks

"""What the command lines of all tools share."""

import argparse
import os
from collections.abc import Sequence
from typing import NoReturn

from mmengine.config import DictAction

from .processes import TIMEOUT


class ArgumentParser(argparse.ArgumentParser):
    """Reports wrong input in one line, without the usage before it, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message}\n')

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse, with one line also where mmengine's action for key=value fails."""
        try:
            return super().parse_args(args)
        except (ValueError, AssertionError):
            self.error('--cfg-options takes KEY=VALUE ..., with brackets and quotes closed')

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

    def add_launcher_arguments(self) -> None:
        """--launcher and --timeout, and the rank that some launchers pass as an argument."""
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


class _RankAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        os.environ.setdefault('LOCAL_RANK', str(values))  # where mmengine looks

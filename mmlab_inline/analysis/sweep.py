"""A grid of runs: checked before the first one starts, then trained and tested, some at a time.

A run has a folder of its own in that of the sweep. Its ``result.json`` is written at its end, in
one piece: a run that has it is finished, any other is taken up where it was, or started.
"""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from pprint import pformat
from queue import SimpleQueue

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
from mmengine.runner import FlexibleRunner, Runner

from ..engine.config import dicts, drop_pretrained, load_config
from ..engine.model import errors_of_build
from ..engine.preflight import check_data, check_pretrained
from ..runs import check_leftovers, check_parts
from ..utils import UserError, write_atomically
from .flops import DoesNotRunError, build_meta, count_config

_TRACEBACK = 'Traceback (most recent call last):'
_MAX_NAME = 80  # characters of a folder's name that say what is varied
_NEEDED = (
    *('train_cfg', 'train_dataloader', 'optim_wrapper'),
    *('test_cfg', 'test_dataloader', 'test_evaluator'),
)
# Settings that a run reads: mmengine takes them, or looks for them in the config.
_OF_RUNS = {
    *inspect.signature(Runner).parameters,
    *inspect.signature(FlexibleRunner).parameters,
    *('runner_type', 'custom_imports', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters'),
    *('activation_checkpointing', 'efficient_conv_bn_eval'),
} - {'work_dir', 'launcher', 'resume', 'experiment_name', 'log_level'}


@dataclass(frozen=True)
class Point:
    """A combination of the varied settings.

    Attributes:
        values: How the values are written, by key; by the last words of the keys where they differ.
        options: All options of its runs, the varied ones and those that all have.
        params: Parameters of the model.
        flops: Multiply-accumulates as published tables count them; None where they cannot be.
    """

    values: dict[str, str]
    options: dict[str, object]
    params: int
    flops: int | None

    @property
    def label(self) -> str:
        """The values and their keys, in words."""
        return ', '.join(f'{key}={text}' for key, text in self.values.items())


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a point with a seed, and the folder where it goes."""

    point: Point
    seed: int
    folder: Path

    def result(self) -> dict[str, float] | None:
        """Its metrics if it is finished.

        Raises:
            UserError: The folder has the result of other options.
        """
        path = self.folder / 'result.json'
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text())
            is_own, metrics = stored['run'] == self._identity(), dict(stored['metrics'])
        except (OSError, ValueError, TypeError, KeyError):
            is_own = False
        if not is_own:
            raise UserError(f'{path} is not of this run; remove it, or give another --out')
        return metrics

    def finish(self) -> None:
        """Write down that it is trained and tested.

        Raises:
            UserError: It has left no metrics that can be read.
        """
        path = self.folder / 'metrics.json'
        try:
            metrics = json.loads(path.read_text())
        except ValueError:
            raise UserError(f'{path} is no JSON') from None
        content = json.dumps({'run': self._identity(), 'metrics': metrics}, indent=1)
        write_atomically(self.folder / 'result.json', content.encode())

    def _identity(self) -> dict[str, object]:
        return {'options': _texts(self.point.options), 'seed': self.seed}


def plan(
    config: str,
    varied: Sequence[tuple[str, Mapping[str, object]]],
    options: Mapping[str, object],
    from_scratch: bool,
) -> list[Point]:
    """Every combination of the varied settings, each with its config checked and its model built.

    Args:
        config: Config file.
        varied: Keys, and values by how they are written.
        options: Of all runs.
        from_scratch: Whether the runs do without pretrained weights.

    Raises:
        UserError: A key is given twice, two combinations are one run, or one cannot run; says which
            and why.
    """
    keys = [key for key, _ in varied]
    for key in keys:
        if key in options or keys.count(key) > 1:
            raise UserError(f'{key} is given twice, by --vary and by --cfg-options or --vary')
    if 'randomness.seed' in (*keys, *options):
        raise UserError('randomness.seed is 0, 1, ... in a sweep: --seeds N says how many')
    last = [key.rpartition('.')[2] for key in keys]
    names = last if len(set(last)) == len(last) else keys
    points, runs = [], {}
    for values in product(*(found.items() for _, found in varied)):
        texts = [text for text, _ in values]
        chosen = {**options, **dict(zip(keys, (value for _, value in values), strict=True))}
        named = ' '.join(map('='.join, zip(keys, texts, strict=True)))
        try:
            cfg, *cost = _check(config, chosen, from_scratch)
        except UserError as error:
            raise UserError(f'--vary {named}: {error}') from error
        other = runs.setdefault(_read_by_runs(cfg), named)
        if other != named:
            raise UserError(
                f'--vary {named}: this is the same run as {other}: another option replaces what '
                'differs, or no run reads it'
            )
        points.append(Point(dict(zip(names, texts, strict=True)), chosen, *cost))
    return points


def _check(config: str, options: Mapping, from_scratch: bool) -> tuple[Config, int, int | None]:
    """Check what can be checked without a run.

    Returns:
        The config as it is used; parameters and multiply-accumulates of its model.
    """
    cfg = load_config(config, options)
    for part in _NEEDED:
        if cfg.get(part) is None:
            raise UserError(f'there is no {part}; every run of a sweep is trained and tested')
    check_leftovers(cfg)
    check_parts(cfg)
    if from_scratch or cfg.get('load_from'):
        drop_pretrained(cfg)
    check_pretrained(cfg)
    check_data(cfg, 'train', 'val', 'test')
    scope = cfg.get('default_scope')
    model = build_meta(cfg.get('model') or {}, scope)
    with errors_of_build('the optimizer'), DefaultScope.overwrite_default_scope(scope):
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    schedulers = cfg.get('param_scheduler') or []
    with errors_of_build('param_scheduler'), DefaultScope.overwrite_default_scope(scope):
        if isinstance(schedulers, Mapping):  # without a type it has those of several optimizers
            schedulers = [schedulers] if 'type' in schedulers else []
        for settings in schedulers:
            given = dict(optimizer=optimizer, epoch_length=1)  # only a run knows the length
            PARAM_SCHEDULERS.build(deepcopy(settings), default_args=given)
    return cfg, sum(parameter.numel() for parameter in model.parameters()), _flops(cfg)


def _read_by_runs(cfg: Config) -> str:
    """What of a config a run goes by, without what its command line says anyway."""
    settings = {key: value for key, value in cfg.to_dict().items() if key in _OF_RUNS}
    settings['randomness'] = {**(settings.get('randomness') or {}), 'seed': None}
    return pformat(settings)


def _flops(cfg: Config) -> int | None:
    """Multiply-accumulates of the model; None where they cannot be counted.

    Raises:
        DoesNotRunError: It does not run, neither at the size of published tables nor at its own.
    """
    try:
        return count_config(cfg)[''].flops
    except DoesNotRunError:
        parts = dicts(cfg.model.get('data_preprocessor'))
        if own := next((part['size'] for part in parts if 'size' in part), None):
            with suppress(UserError):  # some models take images of one size alone
                count_config(cfg, tuple(own))
                return None
        raise
    except UserError:  # no fault of the model's
        return None


def trials_of(points: Sequence[Point], seeds: int, folder: Path) -> list[Trial]:
    """Every point with every seed; all points with the first seed come first."""
    return [
        Trial(point, seed, folder / f'{number:02d}_{_file_name(point.label)}_seed={seed}')
        for seed in range(seeds)
        for number, point in enumerate(points, 1)
    ]


def _as_text(value: object) -> object:
    # The order of a set's elements is another one in each process.
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)


@contextmanager
def claimed(folder: Path, sweep: Mapping[str, object]) -> Iterator[int]:
    """Hold the folder of a sweep, and wait until nothing else does.

    Args:
        folder: Is made if it is missing.
        sweep: What tells the sweep from any other, for JSON.

    Yields:
        A file descriptor to pass to the runs: where a sweep is killed and its run is not, the next
        one waits for that.

    Raises:
        UserError: The folder holds another sweep, or cannot be written.
    """
    path, text = folder / 'plan.json', json.dumps(sweep, indent=1, default=_as_text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / '.lock').open('w')
    except OSError as error:
        raise UserError(f'{folder} cannot be written: {error.strerror}') from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'A run is still going in {folder}: this waits for its end', flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            write_atomically(path, text.encode())
        elif path.read_bytes() != text.encode():
            raise UserError(
                f'{folder} holds another sweep, as {path} says: give another --out, or the config '
                'and the arguments of then'
            )
        yield lock.fileno()


class Workers:
    """Trains and tests trials, several at a time, by the tools.

    Each of those that run at a time has a GPU of its own as long as there are enough, or its share
    of the CPU's threads.

    Args:
        tools: Where train.py and test.py are.
        config: Config file.
        from_scratch: Whether to train without pretrained weights.
        lock: By :func:`claimed`.
        jobs: Trials at a time.
    """

    def __init__(
        self, tools: Path, config: str, from_scratch: bool, lock: int, jobs: int = 1
    ) -> None:
        self.tools, self.config, self.from_scratch = tools, config, from_scratch
        self._lock, self._jobs = lock, jobs
        self._places: SimpleQueue[dict[str, str]] = SimpleQueue()
        for place in _places(jobs):
            self._places.put(place)
        self._processes: set[subprocess.Popen] = set()
        self._starting = threading.Lock()
        self._stopped = False

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
        """Run trials; those that were stopped go on where they were.

        Yields:
            Each as it comes to its end, and why it failed, in a line, or nothing.
        """
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                runs = {pool.submit(self._run, trial): trial for trial in trials}
                for done in as_completed(runs):
                    yield runs[done], done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                with self._starting:
                    self._stopped = True
                    for process in tuple(self._processes):  # they end meanwhile
                        process.terminate()  # a training saves its state
                raise

    def _run(self, trial: Trial) -> str:
        place = self._places.get()
        shared = [self.config, '--work-dir', trial.folder]
        options = [f'{key}={text}' for key, text in _texts(trial.point.options).items()]
        options = ['--cfg-options', *options]  # take all that comes after them
        scratch = ['--from-scratch'] if self.from_scratch else []
        train = [*shared, '--resume', '--seed', trial.seed, *scratch, *options]
        print(f'{trial.folder.name} starts', flush=True)
        try:
            trial.folder.mkdir(exist_ok=True)
            printed = self._call('train', train, trial.folder, place)
            # Its last words are the command that tests the best checkpoint, or the last.
            advice = re.findall(r'^ +python tools/test\.py .*', printed, re.MULTILINE)
            if not advice:
                raise UserError('no checkpoint was written')
            checkpoint = shlex.split(advice[-1])[-1]
            self._call('test', [*shared, checkpoint, *options], trial.folder, place)
            trial.finish()
        except (OSError, UserError) as error:
            return str(error)
        finally:
            self._places.put(place)
        return ''

    def _call(
        self, tool: str, arguments: Sequence[object], folder: Path, place: Mapping[str, str]
    ) -> str:
        """Run a tool to its end; what it has printed.

        Raises:
            UserError: It has failed; its last word on that.
        """
        log = folder / f'{tool}.txt'
        command = [sys.executable, self.tools / f'{tool}.py', *arguments]
        with log.open('w') as file:
            with self._starting:
                if self._stopped:
                    raise UserError(f'{tool}: stopped before it started')
                process = subprocess.Popen(
                    list(map(str, command)),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **place},
                    pass_fds=(self._lock,),
                    start_new_session=True,  # a signal comes from here, once
                )
                self._processes.add(process)
            status = process.wait()
            self._processes.discard(process)
        printed = log.read_text(errors='replace')
        if status < 0:
            known = {number.value: number.name for number in signal.Signals}
            raise UserError(f'{tool}: ended by {known.get(-status, f"signal {-status}")}')
        if status:
            raise UserError(f'{tool}: {_reason(printed) or f"exit status {status}"}')
        return printed


def _reason(printed: str) -> str:
    """Why a tool has failed, out of all it has printed: a line, or nothing."""
    lines = [line.rstrip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    if not errors and (starts := [i for i, line in enumerate(lines) if _TRACEBACK in line]):
        # Below the frames, which are indented. A message may go on for lines.
        errors = [line for line in lines[starts[-1] + 1 :] if not line.startswith(' ')][:1]
    return (errors or lines or [''])[-1].strip()


def _places(jobs: int) -> list[dict[str, str]]:
    """What the environment of each of several runs at a time says of where it runs."""
    if jobs == 1:
        return [{}]
    if count := torch.cuda.device_count():
        visible = os.environ.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(count)))
        names = visible.split(',')
        return [{'CUDA_VISIBLE_DEVICES': names[index % count]} for index in range(jobs)]
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    return [{'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', str(threads))}] * jobs


def _texts(options: Mapping[str, object]) -> dict[str, str]:
    return {key: repr(value) for key, value in options.items()}


def _file_name(label: str) -> str:
    return re.sub(r'[^\w.=+-]+', '_', label)[:_MAX_NAME].strip('_')

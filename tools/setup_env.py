"""Makes the environments that `make` works in: `.venv` and `.venv-openmmlab` in the checkout.

Each holds one of the two families of mm libraries (docs/install.md), in the versions that
`requirements/*.txt` pin. Nothing is compiled. Only the standard library is used: Python 3.8 and
later can start the script, which looks for the one to build on by itself.

Exit status: 0 done, 1 a step failed, 2 something that the user has to change first.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]


# What the package knows about environments, without importing the package: that takes torch.
environment = SimpleNamespace(**runpy.run_path(str(ROOT / 'mmlab_inline' / 'environment.py')))
DOCS, HEADLESS, LIBRARIES = environment.DOCS, environment.HEADLESS, environment.LIBRARIES

# What the pinned set has wheels for.
OLDEST, NEWEST = (3, 11), (3, 13)
SPAN = '{}.{} to {}.{}'.format(*OLDEST, *NEWEST)

VENV_GIB = 6.0
TEMP_GIB = 3.0

TESTS = ('pytest', 'xdist')
# Modules an existing environment must offer, by make target.
NEEDED = {
    'setup': (*LIBRARIES, 'mmlab_inline', *TESTS, 'ruff'),
    'demo': (*LIBRARIES, 'mmlab_inline'),
    'test': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'test-all': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'test-gpu': (*LIBRARIES, *TESTS),
    'lint': ('ruff',),
    'docs': DOCS,
}

# The working directory leaves the path first: mmlab_inline must be installed, tools run outside it.
# Nothing is imported, also not mmcv to look for a module in it.
PROBE_MODULES = """
import json, os, sys
from importlib.metadata import distributions
from importlib.util import find_spec
sys.path[:] = [entry for entry in sys.path if entry]
found = {}
for name in sys.argv[1:]:
    top, _, module = name.partition('.')
    spec = find_spec(top)
    found[name] = os.path.dirname(spec.origin) if spec and spec.origin else ''
    if found[name] and module:
        path = spec.submodule_search_locations
        found[name] = any(f.find_spec(name, path) for f in sys.meta_path if hasattr(f, 'find_spec'))
names = [distribution.metadata['Name'] for distribution in distributions()]
print(json.dumps({'found': found, 'names': [name for name in names if name]}))
"""


class SetupError(Exception):
    """A failure with the lines to print and the status to exit with."""

    def __init__(self, *lines: str, code: int = 2) -> None:
        super().__init__('\n'.join(lines))
        self.code = code


class Family(NamedTuple):
    """One of the two families of mm libraries, and the environment that holds it.

    Attributes:
        name: The extra in setup.cfg, and its file in requirements/.
        folder: The environment's folder at the root of the checkout.
        command: The make target that makes it.
    """

    name: str
    folder: str
    command: str

    @property
    def venv(self) -> Path:
        """Holds `setup.log` of the last set-up, and `setup.stamp` since it is complete."""
        return ROOT / self.folder

    @property
    def requirements(self) -> list[str]:
        """All requirements, relative to the checkout."""
        return [f'requirements/{name}.txt' for name in (self.name, 'runtime', 'dev', 'docs')]


FAMILIES = {
    'onedl': Family('onedl', '.venv', 'make setup'),
    'openmmlab': Family('openmmlab', '.venv-openmmlab', 'make test-openmmlab'),
}


class Base(NamedTuple):
    """A Python to build an environment on."""

    path: str
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor version."""
        return tuple(int(part) for part in self.version.split('.')[:2])

    @property
    def fits(self) -> bool:
        """Whether the pinned set is installable on it."""
        return OLDEST <= self.release <= NEWEST


def say(text: str) -> None:
    """Prints one line of progress at once, also into a pipe."""
    print(f'set-up: {text}', flush=True)


def read_pins(family: Family, root: Path = ROOT) -> dict[str, str]:
    """Reads every `name==version` line of a family's requirements in a checkout."""
    pins = {}
    for name in family.requirements:
        pins.update(re.findall(r'^([\w.-]+)==(\S+)', (root / name).read_text(), re.MULTILINE))
    return pins


def fingerprint(family: Family, root: Path, python: str) -> str:
    """Digests all that an environment depends on, its place too: it cannot be moved."""
    names = (*family.requirements, 'setup.cfg', 'setup.py', 'mmlab_inline/version.py')
    inputs = [str(root), python, *((root / name).read_text() for name in names)]
    return hashlib.sha256('\0'.join(inputs).encode()).hexdigest()


def probe(path: str) -> Base | None:
    """Starts a Python and asks for its version; None if it does not run.

    A pyenv shim exists for versions that are not selected: it prints a message and fails.
    """
    command = [path, '-c', "import sys; print('%d.%d.%d' % sys.version_info[:3])"]
    try:
        answer = subprocess.check_output(
            command, stderr=subprocess.DEVNULL, env=clean_environment(), timeout=60, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Base(path, answer.strip()) if re.fullmatch(r'\d+\.\d+\.\d+\n', answer) else None


def find_base(wanted: str | None, command: str, look: Callable[[str], Base | None] = probe) -> Base:
    """Finds the Python to build on: the user's choice, or the first that fits.

    Raises:
        SetupError: The choice does not run or is out of range, or nothing fits.
    """
    if wanted:
        base = look(wanted)
        if base is None:
            raise SetupError(f'BASE_PYTHON={wanted} does not run; name a Python {SPAN}')
        if not base.fits:
            raise SetupError(f'{wanted} is Python {base.version}; needed is {SPAN}')
        return base
    newest_first = range(NEWEST[1], OLDEST[1] - 1, -1)
    candidates = ['python3', *(f'python3.{minor}' for minor in newest_first), '/usr/bin/python3']
    for path in candidates:
        base = look(path)
        if base and base.fits:
            return base
    raise SetupError(
        f'no Python {SPAN} found (tried {", ".join(candidates)}); apt-get install python3 '
        f'python3-venv, or name one: {command} BASE_PYTHON=/path/to/python3.{NEWEST[1]}'
    )


def disk_problems(needs: Sequence[tuple[Path, float]]) -> list[str]:
    """Lists file systems with too little room for the GiB that will land in existing folders."""
    shared: dict[int, list[tuple[Path, float]]] = {}
    for path, size in needs:
        shared.setdefault(os.stat(path).st_dev, []).append((path, size))
    problems = []
    for group in shared.values():
        path, total = group[0][0], sum(size for _, size in group)
        left = shutil.disk_usage(path).free / 2**30
        if left < total:
            problems.append(
                f'disk: {left:.1f} GB free for {path}, about {total:.0f} GB needed; make room there'
                + (', or set TMPDIR to a roomier folder' if path != ROOT else '')
            )
    return problems


def clean_environment() -> dict[str, str]:
    """Returns the variables for Python and pip in a virtual environment.

    Those that make it look elsewhere are left out, and pip is told to be brief and ask nothing.
    """
    environ = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    environ.update(PYTHONNOUSERSITE='1', PIP_USER='0', PIP_NO_INPUT='1')
    environ.update(PIP_PROGRESS_BAR='off', PIP_DISABLE_PIP_VERSION_CHECK='1')
    return environ


def step(family: Family, title: str, command: Sequence[str], remedy: str) -> None:
    """Runs a command with its output in the log, and prints how long it took.

    Raises:
        SetupError: The command failed; the message ends its output, names the log and the remedy.
    """
    print(f'set-up: {title} ... ', end='', flush=True)
    start = time.monotonic()
    path = family.venv / 'setup.log'
    with path.open('a') as log:
        log.write(f'\n$ {shlex.join(command)}\n')
        log.flush()
        begin = log.tell()
        result = subprocess.run(
            command,
            cwd=ROOT,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    seconds = time.monotonic() - start
    if result.returncode:
        print(f'failed after {seconds:.0f} s', flush=True)
        last = path.read_bytes()[begin:].decode(errors='replace').splitlines()[-15:]
        raise SetupError(*last, f'the full log: {path}', f'remedy: {remedy}', code=1)
    print(f'{seconds:.0f} s', flush=True)


def install(family: Family, base: Base, keep: bool) -> None:
    """Makes the environment complete.

    Args:
        family: The family to install.
        base: The Python to build on.
        keep: Whether the environment there has this Python, and stays.
    """
    start = time.monotonic()
    python, pins = str(family.venv / 'bin' / 'python'), read_pins(family)
    problems = []
    if not keep or not any(family.venv.glob('lib/*/site-packages/torch')):
        problems = disk_problems([(ROOT, VENV_GIB), (Path(tempfile.gettempdir()), TEMP_GIB)])
    if problems:
        raise SetupError(*problems)

    (family.venv / 'setup.log').write_text('')
    if not keep:
        for entry in family.venv.iterdir():
            (shutil.rmtree if entry.is_dir() and not entry.is_symlink() else os.unlink)(entry)
        step(
            family,
            f'making {family.folder} with Python {base.version} ({base.path})',
            [base.path, '-m', 'venv', str(family.venv)],
            'apt-get install python{}.{}-venv'.format(*base.release),
        )
    # Python compiles what is imported when it is imported: a small part of all that is installed.
    pip = [python, '-m', 'pip', 'install', '--no-compile']
    step(
        family,
        f'installing torch {pins["torch"]}, the {family.name} libraries and mmlab-inline itself, '
        'editable (about 2 min, 3 GB the first time)',
        [*pip, '-e', '.', *(word for name in family.requirements for word in ('-r', name))],
        'check the connection to the package index and run the same command again: it continues',
    )
    if subprocess.run([python, '-c', 'import cv2'], capture_output=True).returncode:
        # Two distributions write the cv2 folder, one for screens (mmcv asks for it) and one for
        # machines without: let the latter's files win where the former's do not load.
        step(
            family,
            'taking OpenCV without libGL, which is not on this machine',
            [*pip, '--no-deps', '--force-reinstall', f'{HEADLESS}=={pins[HEADLESS]}'],
            'run the same command again: it continues',
        )
    step(
        family,
        'importing mmcv.ops, mmdet and mmseg',
        [python, '-c', 'import mmcv.ops, mmdet, mmseg'],
        f'{python} -m mmlab_inline says what is wrong; rm -rf {family.folder} && {family.command}',
    )
    stamp = family.venv / 'setup.stamp'
    stamp.with_suffix('.new').write_text(fingerprint(family, ROOT, base.version))
    stamp.with_suffix('.new').replace(stamp)
    say(f'{family.folder} is ready, {time.monotonic() - start:.0f} s in all')


def complete(family: Family) -> str | None:
    """Returns the environment's Python version if it stands as the pins want it, else None."""
    try:
        config = (family.venv / 'pyvenv.cfg').read_text()
        version = re.search(r'^version = (\d+\.\d+\.\d+)', config, re.MULTILINE)[1]
        stands = (family.venv / 'setup.stamp').read_text() == fingerprint(family, ROOT, version)
    except (OSError, TypeError):
        return None
    return version if stands and (family.venv / 'bin' / 'python').exists() else None


@contextmanager
def locked() -> Iterator[None]:
    """Lets one set-up at a time work in the checkout."""
    with Path(__file__).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another set-up is at work here; waiting for it')
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(family: Family, wanted: str | None) -> None:
    """Makes sure the environment stands; quick when it does.

    Args:
        family: The family that it holds.
        wanted: The Python to build on; None keeps the environment's own, or takes one that fits.
    """
    base = find_base(wanted, family.command) if wanted else None

    def stands() -> str | None:
        version = complete(family)
        return version if base is None or base.version == version else None

    if stands():
        say(f'{family.folder} is complete (Python {stands()})')
        return
    with locked():
        if stands():  # made by the one that was waited for
            return
        family.venv.mkdir(exist_ok=True)
        current = probe(str(family.venv / 'bin' / 'python'))
        keep = bool(current and current.fits and (base or current).version == current.version)
        install(family, current if keep else base or find_base(None, family.command), keep)


def check_existing(python: str, target: str) -> None:
    """Checks that an environment of the user's own has what a make target needs.

    Raises:
        SetupError: It does not run or lacks something; one line names what and the command.
    """
    path = shutil.which(python) or python
    try:
        answer = json.loads(
            subprocess.check_output(
                [path, '-c', PROBE_MODULES, *NEEDED[target]], stderr=subprocess.DEVNULL
            )
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        raise SetupError(f'PYTHON={python} does not run') from None
    found, names = answer['found'], answer['names']
    quoted = shlex.quote(python)
    both = environment.both_families(names, quoted)
    if both and any(name in LIBRARIES for name in NEEDED[target]):
        raise SetupError(both)
    own = found.get('mmlab_inline', '')
    if own and Path(own).resolve() != ROOT / 'mmlab_inline':
        found['mmlab_inline'] = ''
    missing = [name for name in NEEDED[target] if not found[name]]
    if missing:
        remedy = environment.remedy_for(missing, quoted, environment.family_of(names))
        raise SetupError(f'{python} lacks {", ".join(missing)}; {remedy}')


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parses the command line, does what it says and exits."""
    parser = argparse.ArgumentParser(description='Make or check an environment for make.')
    parser.add_argument('--base-python', help='the Python to build it on')
    parser.add_argument(
        '--family', choices=FAMILIES, default='onedl', help='which mm libraries (docs/install.md)'
    )
    parser.add_argument('--check', metavar='PYTHON', help='check this environment, install nothing')
    parser.add_argument('--target', choices=sorted(NEEDED), default='setup', help='with --check')
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check_existing(options.check, options.target)
        else:
            set_up(FAMILIES[options.family], options.base_python)
    except SetupError as error:
        for line in str(error).splitlines():
            print(f'set-up: {line}', file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print('\nset-up: interrupted; the same command continues', file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


if __name__ == '__main__':
    main()

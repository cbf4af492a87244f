"""Makes the environments that `make` works in: `.venv` and `.venv-openmmlab` in the checkout.

Each holds one of the two families of mm libraries (docs/install.md), in the versions that
`requirements/*.txt` pin, and is built on the Python that runs this script, which the Makefile
chooses. Nothing is compiled, and only the standard library is used.

Exit status: 0 done, 1 a step failed, 2 something that the user has to change first.
"""

import argparse
import fcntl
import hashlib
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
VERSION = '{}.{}'.format(*sys.version_info)

# What the package knows about environments, without importing the package: that takes torch.
environment = SimpleNamespace(**runpy.run_path(str(ROOT / 'mmlab_inline' / 'environment.py')))
DOCS, HEADLESS, LIBRARIES = environment.DOCS, environment.HEADLESS, environment.LIBRARIES

# GiB that an environment takes, and pip in the temp folder while it installs.
VENV_GIB = 7.0
TEMP_GIB = 3.0

# Modules an existing environment must offer, by make target.
TESTS = ('pytest', 'xdist')
NEEDED = {
    'setup': (*LIBRARIES, 'mmlab_inline', *TESTS, 'ruff'),
    **dict.fromkeys(('demo', 'compare'), (*LIBRARIES, 'mmlab_inline')),
    'test': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'test-all': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'test-gpu': (*LIBRARIES, *TESTS),
    'lint': ('ruff',),
    'docs': DOCS,
}


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
    def python(self) -> Path:
        """The environment's Python."""
        return self.venv / 'bin' / 'python'

    @property
    def requirements(self) -> list[str]:
        """All requirements, relative to the checkout."""
        return [f'requirements/{name}.txt' for name in (self.name, 'runtime', 'dev', 'docs')]


FAMILIES = {
    'onedl': Family('onedl', '.venv', 'make setup'),
    'openmmlab': Family('openmmlab', '.venv-openmmlab', 'make test-openmmlab'),
}


def say(text: str) -> None:
    """Prints one line of progress at once, also into a pipe."""
    print(f'set-up: {text}', flush=True)


def fingerprint(family: Family, root: Path, python: str) -> str:
    """Digests all that an environment depends on, its place too: it cannot be moved."""
    names = (*family.requirements, 'setup.cfg', 'setup.py', 'mmlab_inline/version.py')
    inputs = [str(root), python, *((root / name).read_text() for name in names)]
    return hashlib.sha256('\0'.join(inputs).encode()).hexdigest()


def stands(family: Family) -> bool:
    """Whether the environment is complete, as the pins and this Python want it."""
    stamp = family.venv / 'setup.stamp'
    wanted = fingerprint(family, ROOT, VERSION)
    return family.python.exists() and stamp.is_file() and stamp.read_text() == wanted


def has_this_python(family: Family) -> bool:
    """Whether the environment was made, to the end, with this release of Python."""
    try:
        config = (family.venv / 'pyvenv.cfg').read_text()
    except OSError:
        return False
    pip = family.python.with_name('pip')  # comes last
    return f'\nversion = {VERSION}.' in config and family.python.exists() and pip.exists()


def check_disk() -> None:
    """Checks that there is room for an environment.

    Raises:
        SetupError: There is not, in the checkout or in the temp folder.
    """
    needs = {ROOT: VENV_GIB, Path(tempfile.gettempdir()): TEMP_GIB}
    if len({os.stat(path).st_dev for path in needs}) == 1:
        needs = {ROOT: VENV_GIB + TEMP_GIB}
    for path, need in needs.items():
        left = shutil.disk_usage(path).free / 2**30
        if left < need:
            way = 'make room there' if path == ROOT else 'set TMPDIR to a roomier folder'
            raise SetupError(f'{left:.1f} GB free in {path}, about {need:.0f} GB needed; {way}')


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


def install(family: Family) -> None:
    """Makes the environment complete, from what is there if that is of this Python.

    Raises:
        SetupError: Its folder cannot be written, there is no room, or a step failed.
    """
    start = time.monotonic()
    python, keep = str(family.python), has_this_python(family)
    if not keep or not any(family.venv.glob('lib/*/site-packages/torch')):
        check_disk()
    try:
        family.venv.mkdir(exist_ok=True)
        (family.venv / 'setup.log').write_text('')
    except OSError as error:
        reason = f'{error.filename}: {error.strerror}'
        raise SetupError(f'{reason}; {family.folder} has to be a folder to write to') from None
    if not keep:
        for entry in family.venv.iterdir():
            (shutil.rmtree if entry.is_dir() and not entry.is_symlink() else os.unlink)(entry)
        base = sys._base_executable  # not the environment's own, which is gone
        step(
            family,
            f'making {family.folder} with Python {VERSION} ({base})',
            [base, '-m', 'venv', str(family.venv)],
            f'apt-get install python{VERSION}-venv',
        )
    # Python compiles what is imported when it is imported: a small part of all that is installed.
    pip = [python, '-m', 'pip', 'install', '--no-compile']
    step(
        family,
        f'installing PyTorch, the {family.name} libraries and mmlab-inline itself, editable '
        '(about 2 min, 3 GB the first time)',
        [*pip, '-e', '.', *(word for name in family.requirements for word in ('-r', name))],
        'check the connection to the package index and run the same command again: it continues',
    )
    if subprocess.run([python, '-c', 'import cv2'], capture_output=True).returncode:
        # Two distributions write the cv2 folder, one for screens (mmcv asks for it) and one for
        # machines without: let the latter's files win where the former's do not load.
        step(
            family,
            'taking OpenCV without libGL, which is not on this machine',
            [*pip, '--no-deps', '--force-reinstall', '-c', 'requirements/runtime.txt', HEADLESS],
            'run the same command again: it continues',
        )
    step(
        family,
        'importing mmcv.ops, mmdet and mmseg',
        [python, '-c', 'import mmcv.ops, mmdet, mmseg'],
        f'{python} -m mmlab_inline says what is wrong. If mmcv: pip kept one that was compiled; '
        f"{python} -m pip cache remove 'onedl_mmcv*'; rm -rf {family.folder} && {family.command}",
    )
    stamp = family.venv / 'setup.stamp'
    stamp.with_suffix('.new').write_text(fingerprint(family, ROOT, VERSION))
    stamp.with_suffix('.new').replace(stamp)
    say(f'{family.folder} is ready, {time.monotonic() - start:.0f} s in all')


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


def set_up(family: Family) -> None:
    """Makes sure the environment stands; quick when it does."""
    if stands(family):
        say(f'{family.folder} is complete (Python {VERSION})')
        return
    with locked():
        if not stands(family):  # made by the one that was waited for
            install(family)


def place(name: str) -> str | None:
    """Returns where a module is, without importing anything, also not mmcv to look into it."""
    top, _, module = name.partition('.')
    spec = find_spec(top)
    if not spec or not spec.origin:
        return None
    if module:
        within = spec.submodule_search_locations
        finders = (finder for finder in sys.meta_path if hasattr(finder, 'find_spec'))
        spec = next(filter(None, (finder.find_spec(name, within) for finder in finders)), None)
    return spec and spec.origin


def check_existing(target: str) -> None:
    """Checks that the environment of this Python, the user's own, has what a make target needs.

    Raises:
        SetupError: It lacks something; one line names what and the command.
    """
    names = environment.installed_distributions()
    python = shlex.quote(sys.executable)
    both = environment.both_families(names, python)
    if both and any(name in LIBRARIES for name in NEEDED[target]):
        raise SetupError(both)
    found = {name: place(name) for name in NEEDED[target]}
    own = found.get('mmlab_inline')
    if own and Path(own).resolve().parent != ROOT / 'mmlab_inline':
        found['mmlab_inline'] = None
    missing = [name for name, where in found.items() if not where]
    if missing:
        remedy = environment.remedy_for(missing, python, environment.family_of(names))
        raise SetupError(f'{sys.executable} lacks {", ".join(missing)}; {remedy}')


def main() -> NoReturn:
    """Parses the command line, does what it says and exits."""
    parser = argparse.ArgumentParser(description='Make or check an environment for make.')
    parser.add_argument(
        '--family', choices=FAMILIES, default='onedl', help='which mm libraries (docs/install.md)'
    )
    parser.add_argument(
        '--check',
        metavar='TARGET',
        choices=NEEDED,
        help='install nothing; check that the Python that runs this has what a make target needs',
    )
    options = parser.parse_args()
    try:
        if options.check:
            check_existing(options.check)
        else:
            set_up(FAMILIES[options.family])
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

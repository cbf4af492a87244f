"""Makes the environments that `make` works in: `.venv` and `.venv-openmmlab` in the checkout.

Each holds one of the two families of mm libraries (docs/install.md). Every version comes from
`requirements/*.txt`. mmcv is a source package that takes minutes to compile, so its wheel is kept
in a folder of its own, keyed by what it was compiled for, and the next checkout takes it from
there. Only the standard library is used. Python 3.8 and later can start the script, which looks for
the one to build on by itself.

Exit status: 0 done, 1 a step failed, 2 something that the user has to change first.
"""

from __future__ import annotations

import argparse
import configparser
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]


def load_environment() -> ModuleType:
    """Loads what the package knows about environments without importing it: that takes torch."""
    path = ROOT / 'mmlab_inline' / 'environment.py'
    spec = importlib.util.spec_from_file_location('environment', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


environment = load_environment()
DOCS, HEADLESS, LIBRARIES = environment.DOCS, environment.HEADLESS, environment.LIBRARIES
remedy_for = environment.remedy_for
available_memory, usable_cores = environment.available_memory, environment.usable_cores

OLDEST = (3, 10)

VENV_GIB = 6.0
TEMP_GIB = 3.0
GIB_PER_JOB = 2.0
# Measured: 9 minutes on 2 cores.
BUILD_CORE_MINUTES = 18

TESTS = ('pytest', 'xdist')
# Modules an existing environment must offer, by make target.
NEEDED = {
    'setup': (*LIBRARIES, 'mmlab_inline', *TESTS, 'ruff'),
    'demo': (*LIBRARIES, 'mmlab_inline'),
    'test': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'test-all': (*LIBRARIES, 'mmlab_inline', *TESTS),
    'lint': ('ruff',),
    'docs': DOCS,
}

PROBE_PYTHON = """
import json, os, sys, sysconfig
try:
    import ensurepip, venv
    has_venv = True
except ImportError:
    has_venv = False
try:
    import pip
    has_pip = True
except ImportError:
    has_pip = False
include = sysconfig.get_paths().get('include') or ''
print(json.dumps({
    'version': sys.version_info[:3],
    'tag': 'cp%d%d' % sys.version_info[:2],
    'has_venv': has_venv,
    'has_pip': has_pip,
    'has_headers': os.path.isfile(os.path.join(include, 'Python.h')),
}))
"""

PROBE_TORCH = """
import json, torch
from torch.utils.cpp_extension import CUDA_HOME
devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
print(json.dumps({
    'cuda': torch.version.cuda,
    'cuda_home': CUDA_HOME,
    'capabilities': sorted({'%d.%d' % torch.cuda.get_device_capability(i) for i in devices}),
}))
"""

# The working directory leaves the path first: mmlab_inline must be installed, tools run outside it.
PROBE_MODULES = """
import glob, json, os, sys
from importlib.metadata import distributions
from importlib.util import find_spec
sys.path[:] = [entry for entry in sys.path if entry]
found = {}
for name in sys.argv[1:]:
    top, _, extension = name.partition('.')
    spec = find_spec(top)
    folder = os.path.dirname(spec.origin) if spec and spec.origin else ''
    if extension:
        found[name] = next(iter(glob.glob(os.path.join(folder, extension + '*.so'))), '')
    else:
        found[name] = folder
names = {distribution.metadata['Name'] for distribution in distributions()}
print(json.dumps({'found': found, 'upstream': bool(names & {'mmengine', 'mmcv', 'mmdet'})}))
"""


class SetupError(Exception):
    """A failure with the lines to print and the status to exit with."""

    def __init__(self, *lines: str, code: int = 2) -> None:
        super().__init__('\n'.join(lines))
        self.code = code


class Family(NamedTuple):
    """One of the two families of mm libraries, and the environment that holds it.

    Attributes:
        name: The extra in setup.cfg, and how the requirement files of its own begin.
        folder: The environment's folder at the root of the checkout.
        command: The make target that makes it.
        newest: Last Python that the pinned set is installable on.
    """

    name: str
    folder: str
    command: str
    newest: tuple[int, int]

    @property
    def mmcv(self) -> str:
        """What mmcv's distribution is called."""
        return environment.FAMILIES[self.name]['mmcv'][0]

    @property
    def venv(self) -> Path:
        """The environment."""
        return ROOT / self.folder

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.venv / 'bin' / 'python'

    @property
    def stamp(self) -> Path:
        """Holds the fingerprint of the environment since it is complete."""
        return self.venv / 'setup.stamp'

    @property
    def lock(self) -> Path:
        """Held by the set-up at work."""
        return self.venv / 'setup.lock'

    @property
    def log(self) -> Path:
        """What the last set-up's commands printed."""
        return self.venv / 'setup.log'

    @property
    def build(self) -> str:
        """The requirements that compiling mmcv needs to see, relative to the checkout."""
        return f'requirements/{self.name}-build.txt'

    @property
    def requirements(self) -> tuple[str, ...]:
        """All other requirements, relative to the checkout."""
        return tuple(f'requirements/{name}.txt' for name in (self.name, 'runtime', 'dev', 'docs'))

    @property
    def span(self) -> str:
        """The Python versions it takes, for messages."""
        return '{}.{} to {}.{}'.format(*OLDEST, *self.newest)


FAMILIES = {
    family.name: family
    for family in (
        Family('onedl', '.venv', 'make setup', (3, 12)),
        Family('openmmlab', '.venv-openmmlab', 'make test-openmmlab', (3, 11)),
    )
}


class Interpreter(NamedTuple):
    """A Python that runs, and what it brings along."""

    path: str
    version: tuple[int, int, int]
    tag: str
    has_venv: bool
    has_pip: bool
    has_headers: bool

    @property
    def release(self) -> str:
        """Major and minor version, as in Debian's package names."""
        return '{}.{}'.format(*self.version)

    @property
    def full(self) -> str:
        """All three parts of the version."""
        return '{}.{}.{}'.format(*self.version)


def say(text: str) -> None:
    """Prints one line of progress at once, also into a pipe."""
    print(f'set-up: {text}', flush=True)


def read_pins(family: Family, root: Path = ROOT) -> dict[str, str]:
    """Reads every `name==version` line of a family's requirements in a checkout."""
    pins = {}
    for name in (family.build, *family.requirements):
        for line in (root / name).read_text().splitlines():
            match = re.match(r'([A-Za-z0-9._-]+)==(\S+)', line)
            if match:
                pins[match[1]] = match[2]
    return pins


def fingerprint(family: Family, root: Path, python: str) -> str:
    """Digests everything that an installed environment depends on.

    Args:
        family: The family it holds.
        root: The checkout. Its place counts too, since an environment cannot be moved.
        python: Full version of the environment's Python.
    """
    setup_cfg = configparser.ConfigParser()
    setup_cfg.read(root / 'setup.cfg')
    version = root / 'mmlab_inline' / 'version.py'
    inputs = {
        'root': str(root),
        'python': python,
        'pins': read_pins(family, root),
        'options': {
            name: dict(setup_cfg[name])
            for name in setup_cfg.sections()
            if name.startswith('options')
        },
        'version': version.read_text() if version.exists() else '',
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def cache_dir(environ: dict[str, str]) -> Path:
    """Returns the project's cache folder, which outlives checkouts."""
    own = environ.get('MMLAB_INLINE_CACHE')
    if own:
        return Path(own).expanduser().absolute()
    base = environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'mmlab-inline'


def wheel_key(family: Family, tag: str, pins: dict[str, str], ops: str) -> str:
    """Names the folder of a compiled mmcv by everything that it was compiled against.

    Args:
        family: The family that the mmcv is of.
        tag: Python's tag, such as cp311.
        pins: Versions by distribution name.
        ops: 'cpu', or the CUDA release and the architectures; '*' makes a pattern.
    """
    machine = platform.machine()
    mmcv = f'{family.mmcv}{pins[family.mmcv]}'
    return f'{tag}-{machine}-torch{pins["torch"]}-{mmcv}-{ops}'


def cached_wheel(wheels: Path, key: str) -> Path | None:
    """Returns the wheel kept under a key (or a pattern of keys), or None."""
    found = sorted(wheels.glob(f'{key}/*.whl'))
    return found[0] if found else None


def probe(path: str) -> Interpreter | None:
    """Starts an interpreter and asks what it is; None if it does not run.

    A pyenv shim exists for versions that are not selected: it prints a message and fails.
    """
    try:
        run = subprocess.run(
            [path, '-c', PROBE_PYTHON],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(),
            timeout=60,
            check=True,
        )
        facts = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    facts['version'] = tuple(facts['version'])
    return Interpreter(path=path, **facts)


def in_range(family: Family, interpreter: Interpreter) -> bool:
    """Whether the pinned set is installable there."""
    return OLDEST <= interpreter.version[:2] <= family.newest


def find_base(
    family: Family, wanted: str | None, look: Callable[[str], Interpreter | None] = probe
) -> Interpreter:
    """Finds the Python to build the environment on.

    Args:
        family: The family to install there.
        wanted: The user's choice, or None to take the first that fits.
        look: Starts a candidate and says what it is.

    Raises:
        SetupError: The choice does not run or is out of range, or nothing fits.
    """
    if wanted:
        interpreter = look(wanted)
        if interpreter is None:
            raise SetupError(f'BASE_PYTHON={wanted} does not run; name a Python {family.span}')
        if not in_range(family, interpreter):
            raise SetupError(f'{wanted} is Python {interpreter.full}; needed is {family.span}')
        return interpreter
    newest_first = range(family.newest[1], OLDEST[1] - 1, -1)
    candidates = ['python3', *(f'python3.{minor}' for minor in newest_first), '/usr/bin/python3']
    for path in candidates:
        interpreter = look(path)
        if interpreter and in_range(family, interpreter):
            return interpreter
    raise SetupError(
        f'no Python {family.span} found (tried {", ".join(candidates)}); apt-get install python3 '
        f'python3-venv python3-dev, or name one: {family.command} BASE_PYTHON=/path/to/python3.11'
    )


def max_jobs(cores: int, memory: float | None) -> int:
    """Returns how many compilers may run at once.

    Args:
        cores: Processors this process may use.
        memory: Free memory in GiB, None if unknown.
    """
    if memory is None:
        return cores
    return max(1, min(cores, int(memory / GIB_PER_JOB)))


def find_compiler(environ: dict[str, str]) -> str | None:
    """Returns the path of the C++ compiler that torch's build would take, None if there is none."""
    return shutil.which(shlex.split(environ.get('CXX') or 'c++')[0])


def disk_problems(
    needs: Sequence[tuple[Path, float]],
    device: Callable[[Path], int] = lambda path: os.stat(path).st_dev,
    free: Callable[[Path], float] = lambda path: shutil.disk_usage(path).free / 2**30,
) -> list[str]:
    """Lists file systems with too little room; folders on the same one are added up.

    Args:
        needs: Existing folders with the GiB that will land in each.
        device: Which file system a folder is on.
        free: GiB left at a folder.
    """
    shared: dict[int, list[tuple[Path, float]]] = {}
    for path, size in needs:
        shared.setdefault(device(path), []).append((path, size))
    problems = []
    for group in shared.values():
        path = group[0][0]
        total, left = sum(size for _, size in group), free(path)
        if left < total:
            problems.append(
                f'disk: {left:.1f} GB free for {path}, about {total:.0f} GB needed; make room there'
                + (', or set TMPDIR to a roomier folder' if path != ROOT else '')
            )
    return problems


def build_problems(python: Interpreter, compiler: str | None, memory: float | None) -> list[str]:
    """Lists what keeps mmcv from being compiled, each with its remedy."""
    problems = []
    if compiler is None:
        problems.append('no C++ compiler (c++) for the mmcv build; apt-get install g++')
    if not python.has_headers:
        problems.append(
            f'no Python.h for {python.path}, for the mmcv build; '
            f'apt-get install python{python.release}-dev'
        )
    if memory is not None and memory < GIB_PER_JOB:
        problems.append(
            f'{memory:.1f} GB of memory free, the mmcv build takes {GIB_PER_JOB:.0f} GB a job; '
            'end other programs or add swap or memory'
        )
    return problems


def venv_problems(python: Interpreter) -> list[str]:
    """Says whether a virtual environment can be made at all."""
    if python.has_venv:
        return []
    return [f'{python.path} has no venv module; apt-get install python{python.release}-venv']


def refuse(problems: Sequence[str]) -> None:
    """Raises SetupError with all problems at once, if there are any."""
    if problems:
        raise SetupError(*problems)


def choose_ops(
    family: Family, torch: dict[str, Any], nvcc: str | None, environ: dict[str, str]
) -> tuple[str, str | None]:
    """Decides whether mmcv gets CUDA ops.

    Args:
        family: The family that the mmcv is of.
        torch: What PROBE_TORCH printed.
        nvcc: Release of the CUDA compiler, such as 13.0, None if there is none.
        environ: FORCE_CUDA=1 asks for CUDA ops where no GPU is visible, TORCH_CUDA_ARCH_LIST names
            the architectures.

    Returns:
        The last part of the wheel's key, and a line for the user if a GPU stays unused.
    """
    wanted = torch['cuda'] and (torch['capabilities'] or environ.get('FORCE_CUDA') == '1')
    if not wanted:
        return 'cpu', None
    remedy = (
        f'mmcv gets CPU ops only; for CUDA ops install the CUDA {torch["cuda"]} toolkit (nvcc), '
        f'set CUDA_HOME to it and run: rm {family.folder}/setup.stamp && {family.command}'
    )
    if nvcc is None:
        return 'cpu', f'a GPU but no nvcc: {remedy}'
    if nvcc.split('.')[0] != torch['cuda'].split('.')[0]:
        return 'cpu', f'nvcc {nvcc} does not fit torch, built for CUDA {torch["cuda"]}: {remedy}'
    listed = environ.get('TORCH_CUDA_ARCH_LIST') or '-'.join(torch['capabilities']) or 'default'
    return f'cuda{nvcc}-sm{re.sub("[^0-9A-Za-z.]+", "-", listed)}', None


def nvcc_release(cuda_home: str | None) -> str | None:
    """Returns the release of the toolkit's compiler, such as 13.0, or None without a compiler."""
    if cuda_home is None:
        return None
    try:
        run = subprocess.run(
            [os.path.join(cuda_home, 'bin', 'nvcc'), '--version'],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'release (\d+\.\d+)', run.stdout)
    return match[1] if match else None


def clean_environment() -> dict[str, str]:
    """Returns the variables for Python and pip in a virtual environment.

    Those that make it look elsewhere are left out, and pip is told to be brief and ask nothing.
    """
    environ = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
    environ.update(PYTHONNOUSERSITE='1', PIP_USER='0', PIP_NO_INPUT='1')
    environ.update(PIP_PROGRESS_BAR='off', PIP_DISABLE_PIP_VERSION_CHECK='1')
    return environ


def step(family: Family, title: str, command: Sequence[str], remedy: str, **environ: str) -> None:
    """Runs a command with its output in the log, and prints how long it took.

    Args:
        family: Whose environment it works on.
        title: What is being done, for the line of progress.
        command: Program and arguments.
        remedy: What to do when it fails, one line.
        environ: Variables to set on top of the present ones.

    Raises:
        SetupError: The command failed; the message ends its output, names the log and the remedy.
    """
    print(f'set-up: {title} ... ', end='', flush=True)
    start = time.monotonic()
    with family.log.open('a') as log:
        log.write(f'\n$ {shlex.join(command)}\n')
        log.flush()
        begin = log.tell()
        result = subprocess.run(
            command,
            cwd=ROOT,
            env={**clean_environment(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    seconds = time.monotonic() - start
    if result.returncode:
        print(f'failed after {seconds:.0f} s', flush=True)
        with family.log.open(errors='replace') as log:
            log.seek(begin)
            last = log.read().splitlines()[-15:]
        raise SetupError(*last, f'the full log: {family.log}', f'remedy: {remedy}', code=1)
    print(f'{seconds:.0f} s', flush=True)


def pip(family: Family, *arguments: str) -> list[str]:
    """Returns a pip command line for the environment."""
    return [str(family.python), '-m', 'pip', *arguments]


def start_over(family: Family) -> str:
    """Returns the command that makes the environment anew."""
    return f'rm -rf {family.folder} && {family.command}'


RETRY = 'check the connection to the package index and run the same command again: it continues'


def make_venv(family: Family, base: Interpreter) -> None:
    """Makes an empty environment, in place of whatever is there."""
    # The lock is held and the log is in use.
    old = [entry for entry in family.venv.iterdir() if entry not in (family.lock, family.log)]
    if old:
        say(f'removing the old {family.folder}')
    for entry in old:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    step(
        family,
        f'making {family.folder} with Python {base.full} ({base.path})',
        [base.path, '-m', 'venv', str(family.venv)],
        f'apt-get install python{base.release}-venv',
    )


def build_wheel(family: Family, folder: Path, pins: dict[str, str], ops: str, jobs: int) -> Path:
    """Compiles mmcv and returns the wheel, which appears in its folder only when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    minutes = max(1, round(BUILD_CORE_MINUTES / jobs))
    longer = '' if ops == 'cpu' else ', CUDA ops take longer'
    title = (
        f'compiling {family.mmcv} {pins[family.mmcv]} with {ops} ops, once for this Python and '
        f'torch: about {minutes} min with {jobs} job{"s" if jobs > 1 else ""}{longer} '
        f'(tail -f {family.log})'
    )
    environ = {'MAX_JOBS': str(jobs), 'FORCE_CUDA': '1'}
    if ops == 'cpu':
        # Hides a GPU that no compiler fits, or the build would stop half-way.
        environ.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
    with tempfile.TemporaryDirectory(prefix='building-', dir=folder.parent) as scratch:
        # --no-build-isolation: it must see the installed torch, else it leaves the ops out.
        # --no-cache-dir: pip's cache knows the wheel by name only, not by the torch it fits.
        command = pip(family, 'wheel', '--no-build-isolation', '--no-cache-dir', '--no-deps')
        command += ['--no-binary', family.mmcv, '--wheel-dir', scratch]
        command += [f'{family.mmcv}=={pins[family.mmcv]}']
        step(
            family,
            title,
            command,
            f'if a compiler was killed, memory ran out: MAX_JOBS=1 {family.command}; else see the '
            'log',
            **environ,
        )
        wheel = next(Path(scratch).glob('*.whl'))
        with zipfile.ZipFile(wheel) as archive:
            compiled = any(re.match(r'mmcv/_ext.*\.so$', name) for name in archive.namelist())
        if not compiled:
            raise SetupError(
                f'{wheel.name} has no compiled ops', f'the full log: {family.log}', code=1
            )
        return wheel.replace(folder / wheel.name)


def mmcv_wheel(family: Family, python: Interpreter, pins: dict[str, str]) -> Path:
    """Returns the compiled mmcv that fits the environment, from the wheel folder if it is there."""
    answer = subprocess.run(
        [str(family.python), '-c', PROBE_TORCH],
        capture_output=True,
        env=clean_environment(),
        text=True,
    )
    if answer.returncode:
        last = answer.stderr.strip().splitlines()[-3:]
        raise SetupError(*last, f'torch does not import; {start_over(family)}', code=1)
    torch = json.loads(answer.stdout)
    ops, note = choose_ops(family, torch, nvcc_release(torch['cuda_home']), dict(os.environ))
    if note:
        say(note)
    wheels = cache_dir(dict(os.environ)) / 'wheels'
    key = wheel_key(family, python.tag, pins, ops)
    wheel = cached_wheel(wheels, key)
    if wheel:
        say(f'{family.mmcv} {pins[family.mmcv]} is compiled already: {wheel.parent}')
        return wheel
    memory = available_memory()
    refuse(build_problems(python, find_compiler(dict(os.environ)), memory))
    asked = os.environ.get('MAX_JOBS', '')
    jobs = int(asked) if asked.isdigit() and int(asked) else max_jobs(usable_cores(), memory)
    return build_wheel(family, wheels / key, pins, ops, jobs)


def installed_from(family: Family, wheel: Path) -> bool:
    """Whether the environment's mmcv came from this very file."""
    mmcv = family.mmcv.replace('-', '_')
    origins = family.venv.glob(f'lib/*/site-packages/{mmcv}-*.dist-info/direct_url.json')
    for origin in origins:
        same = json.loads(origin.read_text()).get('url') == wheel.as_uri()
        return same and origin.stat().st_mtime > wheel.stat().st_mtime
    return False


def install(family: Family, base: Interpreter, current: Interpreter | None) -> None:
    """Makes the environment complete.

    Args:
        family: The family to install.
        base: The Python to build on.
        current: The environment's own Python if it stays, else None.
    """
    start = time.monotonic()
    family.log.write_text('')
    pins = read_pins(family)
    wheels = cache_dir(dict(os.environ)) / 'wheels'
    problems = []
    if current is None:
        problems += venv_problems(base)
    if current is None or not any(family.venv.glob('lib/*/site-packages/torch')):
        temp = Path(tempfile.gettempdir())
        problems += disk_problems([(ROOT, VENV_GIB), (temp, TEMP_GIB)])
    if cached_wheel(wheels, wheel_key(family, base.tag, pins, '*')) is None:
        problems += build_problems(base, find_compiler(dict(os.environ)), available_memory())
    refuse(problems)

    if current is None:
        make_venv(family, base)
    step(
        family,
        f'installing torch {pins["torch"]}, torchvision {pins["torchvision"]} and build tools '
        '(about 1 min, 3 GB the first time)',
        pip(family, 'install', '-r', family.build),
        RETRY,
    )
    wheel = mmcv_wheel(family, base, pins)
    if not installed_from(family, wheel):
        # Forced: for pip an mmcv of one version is the same, whatever torch it was compiled for.
        step(
            family,
            f'installing {wheel.name}',
            pip(family, 'install', '--no-deps', '--force-reinstall', str(wheel)),
            f'remove a damaged wheel: rm -r {wheel.parent}',
        )
    step(
        family,
        f'installing {", ".join(family.requirements)}',
        pip(family, 'install', '--no-build-isolation', '-c', family.build)
        + [word for name in family.requirements for word in ('-r', name)],
        RETRY,
    )
    step(
        family,
        'installing mmlab-inline itself, editable',
        pip(family, 'install', '--no-build-isolation', '--no-deps', '-e', '.'),
        'see the log; setup.cfg or mmlab_inline/version.py may be damaged',
    )
    if subprocess.run([str(family.python), '-c', 'import cv2'], capture_output=True).returncode:
        # Two distributions write the cv2 folder, one for screens (mmcv asks for it) and one for
        # machines without: let the latter's files win where the former's do not load.
        step(
            family,
            'taking OpenCV without libGL, which is not on this machine',
            pip(
                family, 'install', '--no-deps', '--force-reinstall', f'{HEADLESS}=={pins[HEADLESS]}'
            ),
            RETRY,
        )
    step(family, 'pip check', pip(family, 'check'), start_over(family))
    step(
        family,
        'importing mmcv.ops, mmdet and mmseg',
        [str(family.python), '-c', 'import mmcv.ops, mmdet, mmseg'],
        f'if mmcv.ops is to blame: rm -r {wheel.parent} && {family.command}',
    )
    stamp = family.stamp.with_suffix('.new')
    stamp.write_text(fingerprint(family, ROOT, venv_version(family) or ''))
    stamp.replace(family.stamp)
    say(f'{family.folder} is ready, {time.monotonic() - start:.0f} s in all')


def venv_version(family: Family) -> str | None:
    """Returns the full Python version of an environment, None if it is not there."""
    try:
        config = (family.venv / 'pyvenv.cfg').read_text()
        match = re.search(r'^version = (\d+\.\d+\.\d+)', config, re.MULTILINE)
    except OSError:
        return None
    return match[1] if match else None


def complete(family: Family) -> str | None:
    """Returns the environment's Python version if it stands as the pins want it, else None."""
    version = venv_version(family)
    if version is None or not family.python.exists() or not family.stamp.exists():
        return None
    return version if family.stamp.read_text() == fingerprint(family, ROOT, version) else None


@contextmanager
def locked(family: Family) -> Iterator[None]:
    """Lets one set-up at a time work on the environment."""
    family.venv.mkdir(exist_ok=True)
    with family.lock.open('w') as lock:
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
    base = find_base(family, wanted) if wanted else None
    version = complete(family)
    if version and (base is None or base.full == version):
        say(f'{family.folder} is complete (Python {version})')
        return
    with locked(family):
        version = complete(family)
        if version and (base is None or base.full == version):
            return
        current = probe(str(family.python))
        if current and not (current.has_pip and in_range(family, current)):
            current = None
        if current and base and base.full != current.full:
            say(f'{family.folder} has Python {current.full}; making it anew with {base.full}')
            current = None
        install(family, base or current or find_base(family, None), current)


def check_existing(python: str, target: str) -> None:
    """Checks that an environment of the user's own has what a make target needs.

    Raises:
        SetupError: It does not run or lacks something; one line names what and the command.
    """
    path = shutil.which(python) or python
    try:
        run = subprocess.run(
            [path, '-c', PROBE_MODULES, *NEEDED[target]],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        answer = json.loads(run.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        raise SetupError(f'PYTHON={python} does not run') from None
    found = answer['found']
    own = found.get('mmlab_inline', '')
    if own and Path(own).resolve() != ROOT / 'mmlab_inline':
        found['mmlab_inline'] = ''
    missing = [name for name in NEEDED[target] if not found[name]]
    if missing:
        family = 'openmmlab' if answer['upstream'] else 'onedl'
        remedy = remedy_for(missing, shlex.quote(python), family)
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

"""What an environment holds, and what is wrong with it: the report of ``python -m mmlab_inline``.

Only the standard library is imported, because the report is for environments in which other imports
fail; libraries are imported in processes of their own. tools/setup_env.py loads this file by its
path, under any Python from 3.11 on, and shares what both need.
"""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = (PACKAGE.parent / 'setup.cfg').is_file()  # which pip installs; a wheel does not stay
LIBRARIES = ('torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmcv._ext', 'mmdet', 'mmseg')
DOCS = ('mkdocs', 'material', 'mkdocstrings', 'latex2mathml')
HEADLESS = 'opencv-python-headless'
# Tools of development whose distributions bear another name than the module.
DISTRIBUTIONS = {'xdist': 'pytest-xdist'}

# Two families of distributions share the import names. The first of a row is the one to install.
FAMILIES = {
    'onedl': {
        'mmengine': ('onedl-mmengine',),
        'mmcv': ('onedl-mmcv',),
        'mmdet': ('onedl-mmdetection',),
        'mmseg': ('onedl-mmsegmentation',),
    },
    'openmmlab': {
        'mmengine': ('mmengine', 'mmengine-lite'),
        'mmcv': ('mmcv-lite', 'mmcv', 'mmcv-full'),
        'mmdet': ('mmdet',),
        'mmseg': ('mmsegmentation',),
    },
}
OPENCV = ('opencv-python', HEADLESS, 'opencv-contrib-python', 'opencv-contrib-python-headless')

# In this order, so that the first failure is the cause of those after it.
PROBED = ('numpy', 'torch', 'torchvision', 'triton', 'timm', 'cv2')
PROBED += ('mmengine', 'mmcv', 'mmcv.ops', 'mmdet', 'mmseg', 'mmlab_inline')
OPTIONAL = ('triton',)

# The ops of mmcv that run without compiling it, as mmcv_ops/_ext.py names them.
SERVED_OPS = {
    'torchvision': ('nms', 'roi_align', 'deform_conv', 'modulated_deform_conv'),
    'plain PyTorch': ('softnms', 'sigmoid_focal_loss', 'softmax_focal_loss', 'ms_deform_attn'),
}

VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'CUDA_HOME')
VARIABLES += ('TRITON_INTERPRET', 'PYTHONPATH')
OWN_VARIABLES = 'MMLAB_INLINE_'

# What an import says when it fails, and what helps: {mmcv} takes an mmcv without compiled ops,
# {own} installs this package anew, {headless} is the OpenCV that is there. docs/install.md has the
# same and more. --force-reinstall would take along the newest of what both require, such as NumPy.
MATCHING = '{pip} uninstall -y torch torchvision && {pip} install torch torchvision'
SYMPTOMS = (
    (r'torchvision::nms|torchvision that belongs|PyTorch and torchvision were compiled', MATCHING),
    (r'-packages/torch(vision)?/\S*: undefined symbol', MATCHING),
    (r"No module named 'mmcv\._ext'", '{own}'),
    (r'mmcv/_ext\S*: undefined symbol', '{mmcv}'),
    (r'libGL', '{pip} install --no-deps --force-reinstall {headless}'),
    (
        r'MMCV==.* is used but incompatible',
        "{pip} install 'mmcv-lite>=2.1,<2.2', or the onedl family",
    ),
)

UNKNOWN = 'see "When something goes wrong" in docs/install.md'

# Imports may print: stdout goes to stderr, the results to what was stdout. After a failure the rest
# is for another process, because halves of libraries stay and what meets them says something else.
PROBE = """
import importlib, json, os, sys
out = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1)

def details(name, module):
    if not getattr(module, '__file__', None):
        raise ModuleNotFoundError(f"No module named '{name}.__init__'")  # half installed
    found = {'version': str(getattr(module, '__version__', ''))}
    if name == 'torch':
        cuda = module.cuda.is_available()
        found['cuda'] = module.version.cuda
        found['cudnn'] = module.backends.cudnn.version() if module.version.cuda else None
        count = module.cuda.device_count() if cuda else 0
        found['gpus'] = [module.cuda.get_device_name(index) for index in range(count)]
    if name == 'mmcv.ops':
        found['cuda'] = module.get_compiling_cuda_version()
        ext = importlib.import_module('mmcv._ext').__file__
        found['compiled'] = '' if ext.endswith('.py') else ext
    if name == 'mmlab_inline':
        [getattr(module, part) for part in module.__all__]  # imported when they are asked for
        forms = importlib.import_module('mmlab_inline.analysis.attention_forms')
        found['attention'] = forms.forms_by_device()
    return found

for name in sys.argv[1:]:
    try:
        found = details(name, importlib.import_module(name))
    except BaseException as error:
        text = ' '.join(str(error).split()).removesuffix('; python -m mmlab_inline says what to do')
        found = {'error': type(error).__name__ + (': ' + text[:500] if text else '')}
    print(json.dumps([name, found]), file=out, flush=True)
    if 'error' in found:
        break
os._exit(0)  # libraries that loaded half may fail to unload
"""


def usable_cores() -> int:
    """Returns the processors this process may use."""
    return len(os.sched_getaffinity(0))


def available_memory(
    meminfo: Path = Path('/proc/meminfo'), cgroup: Path = Path('/sys/fs/cgroup')
) -> float | None:
    """Returns the memory left to this process in GiB, a container's limit included."""
    room = []
    try:
        kib = re.search(r'^MemAvailable:\s+(\d+) kB', meminfo.read_text(), re.MULTILINE)
        if kib:
            room.append(int(kib[1]) / 2**20)
        limit = (cgroup / 'memory.max').read_text().strip()
        # Not memory.current, which counts file cache that gives way.
        anonymous = re.search(r'^anon (\d+)', (cgroup / 'memory.stat').read_text(), re.MULTILINE)
        if limit != 'max' and anonymous:
            room.append((int(limit) - int(anonymous[1])) / 2**30)
    except (OSError, ValueError):
        pass
    return min(room) if room else None


def family_of(names: Iterable[str]) -> str:
    """Returns the family to take where distributions of these names are installed."""
    found = {
        family: {name for row in rows.values() for name in row} & set(names)
        for family, rows in FAMILIES.items()
    }
    return 'openmmlab' if found['openmmlab'] and not found['onedl'] else 'onedl'


def both_families(names: Iterable[str], python: str) -> str | None:
    """Returns what to do where both families are installed, or None.

    Args:
        names: The distributions installed.
        python: The environment's Python, quoted for a shell.
    """
    families = [
        sorted({name for row in rows.values() for name in row} & set(names))
        for rows in FAMILIES.values()
    ]
    if not all(families):
        return None
    both = ' '.join(families[0] + families[1])
    return (
        f'both families of mm libraries are installed ({both}), each over the other; '
        f'{python} -m pip uninstall -y {both} && {python} -m pip install {_libraries("onedl")}'
    )


def refuse_both_families() -> None:
    """Ends a tool where both families are installed; it only looks for their metadata."""
    names = {name for rows in FAMILIES.values() for row in rows.values() for name in row}
    found = [name for name in names if next(iter(distributions(name=name)), None)]
    both = both_families(found, shlex.quote(sys.executable))
    if both:
        print(f'error: {both}', file=sys.stderr)
        sys.exit(2)


def _libraries(family: str, *extras: str) -> str:
    """Returns what pip is to install for all libraries of a family, quoted for a shell."""
    if CHECKOUT:
        return f"-e '.[{','.join((family, *extras))}]'"
    try:
        found = [requirement.partition(';') for requirement in requires('mmlab-inline') or ()]
    except PackageNotFoundError:
        found = [(row[0], '', family) for row in FAMILIES[family].values()]
    return shlex.join(name.strip() for name, _, extra in found if not extra or family in extra)


def ops_without_cuda(compiled: str) -> str:
    """Returns what to do where a GPU is visible and mmcv's ops are for the CPU only.

    Args:
        compiled: Their file, or '' where torchvision serves them.
    """
    if compiled:
        return (
            'mmcv is compiled for the CPU only, which hides the ops that run on the GPU; '
            f'rm {shlex.quote(compiled)}'
        )
    pip = f'{shlex.quote(sys.executable)} -m pip'
    return f'torch has CUDA, torchvision has not; {MATCHING.format(pip=pip)}'


def mmcv_remedy(python: str, family: str) -> str:
    """Returns the command that puts an mmcv without compiled ops in place of whatever is there."""
    row = FAMILIES[family]['mmcv']
    limit = "'mmcv-lite>=2.1,<2.2'" if family == 'openmmlab' else row[0]
    pip = f'{python} -m pip'
    return f'{pip} uninstall -y {" ".join(row)} && {pip} install --no-cache-dir {limit}'


def remedy_for(missing: Sequence[str], python: str, family: str) -> str:
    """Returns the command that installs what an existing environment lacks.

    Args:
        missing: Modules that were not found.
        python: The environment's Python, quoted for a shell.
        family: The family of mm distributions to take: one installed over the other breaks both.
    """
    own = ('mmlab_inline', 'mmcv._ext')  # one distribution
    if any(name in LIBRARIES and name not in own for name in missing):
        return f'{python} -m pip install {_libraries(family, "dev")}'
    commands = []
    if any(name in own for name in missing):
        anew = '-e .' if CHECKOUT else '--force-reinstall /path/to/mmlab_inline-*.whl'
        commands.append(f'{python} -m pip install --no-deps {anew}')
    if any(name in DOCS for name in missing):
        commands.append(f'{python} -m pip install -r requirements/docs.txt')
    tools = [name for name in missing if name not in (*own, *DOCS)]
    if tools:
        distributions = ' '.join(DISTRIBUTIONS.get(name, name) for name in tools)
        commands.append(f'{python} -m pip install {distributions}')
    return ' && '.join(commands)


def probe_modules(names: Sequence[str] = PROBED, timeout: float = 300) -> dict[str, dict]:
    """Imports modules one after another in another process, and in a new one after a failure.

    Args:
        names: Modules.
        timeout: Seconds for all imports of one process.

    Returns:
        For each module ``version``, or ``error`` in one line; more about torch and mmcv's ops.
    """
    found: dict[str, dict] = {}
    while rest := [name for name in names if name not in found]:
        try:
            done = subprocess.run(
                [sys.executable, '-c', PROBE, *rest],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
            )
            output = done.stdout
            end = '' if output else f'the import ends Python with status {done.returncode}'
        except subprocess.TimeoutExpired as error:
            output, end = error.stdout or b'', f'the import takes longer than {timeout:.0f} s'
        for line in output.decode(errors='replace').splitlines():
            name, facts = json.loads(line)
            found[name] = facts
        if end:
            found[next(name for name in rest if name not in found)] = {'error': end}
    return found


def installed_distributions() -> dict[str, str]:
    """Returns the versions of everything installed, by distribution name."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = distribution.metadata['Name']  # None where the metadata are torn
        if name:
            found.setdefault(re.sub(r'[-_.]+', '-', name).lower(), distribution.version)
    return found


def report() -> Iterator[str]:
    """Yields the lines of the report, problems last; never raises."""
    failures = []

    def attempt(action: Callable, otherwise: object) -> object:
        try:
            return action()
        except Exception as error:
            failures.append(f'this report is incomplete: {type(error).__name__}: {error}')
            return otherwise

    installed = attempt(installed_distributions, {})
    facts = attempt(probe_modules, {})
    sections = {
        'mmlab-inline': _describe_package,
        'platform': platform.platform,
        'Python': lambda: f'{platform.python_version()} ({sys.executable})',
        'processor': _describe_processor,
    }
    for name in PROBED[:-1]:
        sections[name] = lambda name=name: _describe_module(name, facts.get(name, {}), installed)
    sections['attention'] = lambda: _describe_attention(facts.get('mmlab_inline', {}))
    sections['variables'] = _describe_variables
    for title, describe in sections.items():
        yield f'{title:<12}  {attempt(describe, "unknown")}'
    problems = attempt(lambda: list(find_problems(facts, installed)), [])
    yield ''
    for problem in problems + failures:
        yield 'problem: ' + problem.replace('\n', ' ')
    if not problems + failures:
        yield 'no problem found'


def explain_import_error(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """``sys.excepthook`` of the tools: a library that does not import is one line and status 2.

    The line is the first problem of the report. With MMLAB_INLINE_TRACEBACK=1, and where the report
    knows none, it is Python's traceback.
    """
    # A library that is torn raises whatever it meets, in the body of a module.
    bodies = [frame for frame, _ in walk_tb(trace) if frame.f_code.co_name == '<module>'][1:]
    of_import = issubclass(kind, ImportError) or bodies
    if of_import and os.environ.get('MMLAB_INLINE_TRACEBACK') != '1':
        problem = next(find_problems(probe_modules(), installed_distributions()), None)
        if problem:
            sys.stdout.flush()
            print(f'error: {problem}', file=sys.stderr, flush=True)
            os._exit(2)  # a hook cannot choose the status otherwise
    sys.__excepthook__(kind, error, trace)


def find_problems(facts: dict[str, dict], installed: dict[str, str]) -> Iterator[str]:
    """Yields what is wrong and what to do, one line each.

    Args:
        facts: What :func:`probe_modules` found.
        installed: What :func:`installed_distributions` found.
    """
    python = shlex.quote(sys.executable)
    both = both_families(installed, python)
    if both:
        yield both
    opencv = {installed[name] for name in OPENCV if name in installed}
    if len(opencv) > 1:
        yield (
            'several distributions write the folder cv2, in different versions '
            f'({_listed(OPENCV, installed)}); give them one version'
        )
    ops = facts.get('mmcv.ops', {})
    if facts.get('torch', {}).get('gpus') and ops.get('cuda') == 'not available':
        yield ops_without_cuda(ops['compiled'])
    seen = set()
    for name, found in facts.items():
        error = found.get('error')
        if not error or error in seen:
            continue
        missing = re.search(r"No module named '([^']+)'", error)
        if name in OPTIONAL and missing:
            continue
        remedy = _remedy(error, missing and missing[1], python, installed)
        if remedy in seen:
            continue
        seen |= {error, remedy} - {UNKNOWN}  # what another's remedy mends is said once
        yield f'{name} does not import: {error}; {remedy}'


def _remedy(error: str, missing: str | None, python: str, installed: dict[str, str]) -> str:
    family, pip = family_of(installed), f'{python} -m pip'
    for_screens = [n for n in OPENCV if n in installed and not n.endswith('headless')]
    for pattern, remedy in SYMPTOMS:
        if re.search(pattern, error):
            return remedy.format(
                pip=pip,
                mmcv=mmcv_remedy(python, family),
                own=remedy_for(['mmlab_inline'], python, family),
                headless=' '.join(f'{name}-headless=={installed[name]}' for name in for_screens)
                or f"'{HEADLESS}<4.13'",
            )
    if not missing:
        return UNKNOWN
    top, torn, _ = missing.partition('.')
    there = [name for name in FAMILIES[family].get(top, (top,)) if name in installed]
    if top == 'mmcv' and (torn or there):
        return mmcv_remedy(python, family)
    if there:  # pip takes it for whole
        return f'{pip} install --force-reinstall --no-deps {there[0]}=={installed[there[0]]}'
    return remedy_for([top], python, family)


def _describe_package() -> str:
    text = (PACKAGE / 'version.py').read_text()
    version = re.search(r"__version__ = '(.+)'", text)
    parts = [f'{version[1] if version else "?"} in {PACKAGE}']
    if (PACKAGE.parent / '.git').exists():
        revision = _git('rev-parse', '--short', 'HEAD')
        changed = _git('status', '--porcelain', '--untracked-files=no')
        parts.append(f'git {revision or "unknown"}{", modified" if changed else ""}')
    return ', '.join(parts)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ['git', '-C', str(PACKAGE.parent), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.decode(errors='replace').strip()


def _describe_processor() -> str:
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30
    left = available_memory()
    free = '' if left is None else f', {left:.1f} available'
    return f'{usable_cores()} of {os.cpu_count()} cores; memory {total:.1f} GiB{free}'


def _describe_module(name: str, found: dict, installed: dict[str, str]) -> str:
    if 'error' in found:
        absent = found['error'].startswith('ModuleNotFoundError') and f"'{name}'" in found['error']
        text = 'not installed' if absent else f'does not import: {found["error"]}'
    else:
        text = found.get('version', 'unknown') or 'imports'
    if 'compiled' in found:
        served = (f'{", ".join(ops)} by {whom}' for whom, ops in SERVED_OPS.items())
        text += ', all compiled' if found['compiled'] else f', served: {"; ".join(served)}'
    if 'cuda' in found:
        text += f', CUDA {found["cuda"] or "not available"}'
    if 'gpus' in found:
        text += f', cuDNN {found["cudnn"]}; {", ".join(found["gpus"]) or "no GPU"}'
    names = OPENCV if name == 'cv2' else [row for f in FAMILIES.values() for row in f.get(name, ())]
    listed = _listed(names, installed)
    return f'{text} ({listed})' if listed else text


def _describe_attention(found: dict) -> str:
    forms = found.get('attention', {})
    return ', '.join(f'{device}: {form}' for device, form in forms.items()) or 'unknown'


def _listed(names: Sequence[str], installed: dict[str, str]) -> str:
    return ', '.join(f'{name} {installed[name]}' for name in names if name in installed)


def _describe_variables() -> str:
    names = [n for n in sorted(os.environ) if n in VARIABLES or n.startswith(OWN_VARIABLES)]
    return ' '.join(f'{name}={shlex.quote(os.environ[name])}' for name in names) or 'none set'

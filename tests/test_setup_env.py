"""What tools/setup_env.py and the Makefile decide, not what they install."""

import configparser
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'
WORKFLOW = ROOT / '.github' / 'workflows' / 'check.yml'


@pytest.fixture(scope='module')
def env():
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def onedl(env):
    return env.FAMILIES['onedl']


@pytest.fixture
def openmmlab(env):
    return env.FAMILIES['openmmlab']


@pytest.fixture
def checkout(tmp_path):
    files = {
        'requirements/onedl.txt': '# why\nonedl-mmcv==2.3.6\n',
        'requirements/openmmlab.txt': 'mmcv-lite==2.1.0\n',
        'requirements/runtime.txt': 'torch==2.12.1\nrich==15.0.0\n',
        'requirements/dev.txt': '',
        'requirements/docs.txt': '',
        'setup.cfg': '[options]\ninstall_requires =\n    torch>=2.7\n',
        'setup.py': 'setup()\n',
        'mmlab_inline/version.py': "__version__ = '0.1.0'\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def of_python(lines, python):
    """Requirements of a release of Python, name to specifier."""
    found = [Requirement(line) for line in lines if line and not line.startswith('#')]
    found = [r for r in found if not r.marker or r.marker.evaluate({'python_version': python})]
    assert len(found) == len({r.name for r in found})
    return {r.name: r.specifier for r in found}


def read_pins(family, python='3.11'):
    """Every requirement of a family, name to version."""
    lines = [line for path in family.requirements for line in (ROOT / path).read_text().split('\n')]
    pins = {name: str(specifier) for name, specifier in of_python(lines, python).items()}
    assert all(re.fullmatch(r'==[\d.]+', pin) for pin in pins.values())
    return {name: pin.removeprefix('==') for name, pin in pins.items()}


@pytest.mark.parametrize('python', ['3.11', '3.13', '3.14'])
@pytest.mark.parametrize('name', ['onedl', 'openmmlab'])
def test_every_requirement_of_the_project_is_pinned_once(env, name, python):
    mmcv = env.environment.FAMILIES[name]['mmcv'][0]
    pins = read_pins(env.FAMILIES[name], python)
    assert {'torch', 'torchvision', mmcv, env.HEADLESS} <= pins.keys()


@pytest.mark.parametrize('name', ['onedl', 'openmmlab'])
def test_extras_take_what_is_pinned(env, name):
    """And no OpenCV that was not tried: its releases from 4.13 on take other libraries along."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = config['options']['install_requires'] + config['options.extras_require'][name]
    allowed = of_python(lines.split('\n'), '3.11')
    pins = read_pins(env.FAMILIES[name])
    for requirement in allowed.keys() & pins.keys():
        assert pins[requirement] in allowed[requirement], requirement
    if name == 'openmmlab':  # onedl's augmentation library has the same limit
        assert '4.13.0.90' not in allowed['opencv-python']


def test_every_requirement_file_is_of_a_family(env):
    read = {ROOT / path for family in env.FAMILIES.values() for path in family.requirements}
    assert read == set((ROOT / 'requirements').iterdir())


def test_families_differ_in_the_libraries_alone(onedl, openmmlab):
    pins = [read_pins(family).items() for family in (onedl, openmmlab)]
    differing = {name for name, _ in pins[0] ^ pins[1]}
    assert differing and {name for name in differing if 'mm' not in name} == set()


@pytest.mark.parametrize(
    ('name', 'old', 'new'),
    [
        ('requirements/runtime.txt', '2.12.1', '2.13.0'),
        ('requirements/onedl.txt', '2.3.6', '2.3.7'),
        ('setup.cfg', 'torch>=2.7', 'torch>=2.8'),
        ('setup.py', 'setup()', 'setup(packages=[])'),
        ('mmlab_inline/version.py', '0.1.0', '0.2.0'),
    ],
)
def test_fingerprint_follows_what_is_installed(env, onedl, checkout, name, old, new):
    before = env.fingerprint(onedl, checkout, '3.11')
    assert env.fingerprint(onedl, checkout, '3.11') == before
    replace(checkout / name, old, new)
    assert env.fingerprint(onedl, checkout, '3.11') != before


def test_fingerprint_follows_python_and_place(env, onedl, checkout, tmp_path_factory):
    before = env.fingerprint(onedl, checkout, '3.11')
    elsewhere = shutil.copytree(checkout, tmp_path_factory.mktemp('elsewhere') / 'checkout')
    assert env.fingerprint(onedl, checkout, '3.12') != before
    assert env.fingerprint(onedl, elsewhere, '3.11') != before


def test_memory_heeds_the_limit_of_a_container(env, tmp_path):
    available_memory = env.environment.available_memory
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal: 99 kB\nMemAvailable:   8388608 kB\n')
    assert available_memory(meminfo, tmp_path) == 8
    (tmp_path / 'memory.stat').write_text('anon 1073741824\nfile 9999999999\n')
    (tmp_path / 'memory.max').write_text('max\n')
    assert available_memory(meminfo, tmp_path) == 8
    (tmp_path / 'memory.max').write_text('4294967296\n')
    assert available_memory(meminfo, tmp_path) == 3
    assert available_memory(tmp_path / 'none', tmp_path / 'none') is None


@pytest.mark.parametrize(
    ('disks', 'free', 'said'),
    [
        ([1, 1], [10.0, 10.0], None),
        ([1, 1], [9.0, 9.0], r'9\.0 GB free in .*, about 10 GB needed; make room there'),
        ([1, 2], [7.0, 3.0], None),
        ([1, 2], [5.5, 3.0], r'5\.5 GB free in .*, about 7 GB needed; make room there'),
        ([1, 2], [8.0, 1.0], r'1\.0 GB free in /tmp/x, about 3 GB needed; set TMPDIR'),
    ],
)
def test_disk(env, monkeypatch, disks, free, said):
    places = [env.ROOT, Path('/tmp/x')]
    disks, free = dict(zip(places, disks, strict=True)), dict(zip(places, free, strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(env.tempfile, 'gettempdir', lambda: '/tmp/x')
        patch.setattr(env.os, 'stat', lambda path: SimpleNamespace(st_dev=disks[path]))
        usage = lambda path: SimpleNamespace(free=free[path] * 2**30)  # noqa: E731
        patch.setattr(env.shutil, 'disk_usage', usage)
        with pytest.raises(env.SetupError, match=said) if said else nullcontext():
            env.check_disk()


@pytest.fixture
def family(env, tmp_path, monkeypatch):
    """One whose environment would be in a folder of the test."""
    monkeypatch.setattr(env.Family, 'venv', tmp_path / 'venv')
    return env.FAMILIES['onedl']


def test_an_environment_that_was_interrupted_or_is_of_another_python_is_made_anew(env, family):
    assert not env.has_this_python(family)
    (family.venv / 'bin').mkdir(parents=True)
    family.python.touch()
    config = family.venv / 'pyvenv.cfg'
    config.write_text(f'home = /usr/bin\nversion = {env.VERSION}.2\n')
    assert not env.has_this_python(family)
    (family.venv / 'bin/pip').touch()
    assert env.has_this_python(family)
    config.write_text(f'home = /usr/bin\nversion = {env.VERSION}1.2\n')
    assert not env.has_this_python(family)
    config.write_text(f'home = /usr/bin\nversion = {env.VERSION}.2\n')
    family.python.unlink()
    assert not env.has_this_python(family)


def test_a_file_in_place_of_the_environment_is_one_line(env, family, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['setup_env.py'])
    monkeypatch.setattr(env, 'check_disk', lambda: None)
    family.venv.touch()
    with pytest.raises(SystemExit, match='2'):
        env.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f'set-up: {family.venv}: File exists; .venv has to be a folder to write to'


def test_an_environment_may_be_made_anew_by_its_own_python(env, family, monkeypatch):
    def step(family, title, command, remedy):
        commands.append(command)
        raise env.SetupError('stop')

    commands = []
    (family.venv / 'bin').mkdir(parents=True)
    monkeypatch.setattr(env, 'check_disk', lambda: None)
    monkeypatch.setattr(env, 'step', step)
    monkeypatch.setattr(env.sys, 'executable', str(family.python))
    with pytest.raises(env.SetupError, match='stop'):
        env.install(family)
    assert commands == [[sys._base_executable, '-m', 'venv', str(family.venv)]]
    assert not list(family.venv.iterdir())


def test_an_mmcv_that_pip_kept_compiled_does_not_come_back(env, family, monkeypatch):
    """Removing the environment alone would bring the same one out of pip's cache."""
    steps = []
    monkeypatch.setattr(env, 'check_disk', lambda: None)
    monkeypatch.setattr(env, 'step', lambda *arguments: steps.append(arguments))
    monkeypatch.setattr(env.subprocess, 'run', lambda *_, **__: SimpleNamespace(returncode=0))
    env.install(family)
    (remedy,) = (remedy for _, title, _, remedy in steps if 'importing mmcv.ops' in title)
    cache, _, anew = remedy.partition("-m pip cache remove 'onedl_mmcv*'; ")
    assert anew == 'rm -rf .venv && make setup' and '-m mmlab_inline says' in cache


def test_an_environment_stands_while_its_stamp_is_of_the_pins(env, family):
    stamp = family.venv / 'setup.stamp'
    (family.venv / 'bin').mkdir(parents=True)
    family.python.touch()
    assert not env.stands(family)
    stamp.write_text(env.fingerprint(family, ROOT, '3.10'))
    assert not env.stands(family)
    stamp.write_text(env.fingerprint(family, ROOT, env.VERSION))
    assert env.stands(family)
    family.python.unlink()
    assert not env.stands(family)


@pytest.fixture
def make(tmp_path):
    """Runs make, dry, where Pythons of these versions are found and no others.

    The one called ``venv`` is the environment's, ``dead`` does not run.
    """
    shutil.copy(ROOT / 'Makefile', tmp_path)
    tool = shutil.which('make') or pytest.skip('there is no make')

    def run(arguments, **versions):
        (tmp_path / '.venv/bin').mkdir(parents=True, exist_ok=True)
        for name, version in versions.items():
            path = tmp_path / ('.venv/bin/python' if name == 'venv' else name.replace('_', '.'))
            # Answers what the Makefile asks for another version.
            release = tuple(map(int, version.split('.')))
            answer = f'import sys; exec(sys.argv[2].replace("sys.version_info", "{release}"))'
            path.write_text(f'#!{sys.executable} -SE\n{answer if any(release) else "exit(127)"}\n')
            path.chmod(0o755)
        return subprocess.run(
            [tool, '--dry-run', f'SHELL={shutil.which("sh")}', *arguments.split()],
            cwd=tmp_path,
            env={'PATH': f'{tmp_path}:/tools'},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ('arguments', 'versions', 'chosen'),
    [
        ('setup', dict(python3='3.11.9', python3_12='3.12.1'), 'python3'),
        ('setup', dict(python3='3.10.2', python3_12='3.12.7'), 'python3.12'),
        ('setup', dict(python3='3.14.0', python3_12='3.12.7'), 'python3.12'),
        ('setup', dict(python3='0', python3_13='3.13.0'), 'python3.13'),
        ('setup', dict(venv='3.12.1', python3='3.13.0'), '.venv/bin/python'),
        ('setup', dict(venv='3.14.1', python3='3.13.0'), '.venv/bin/python'),
        ('setup', dict(venv='3.10.1', python3='3.13.0'), 'python3'),
        ('test-openmmlab', dict(venv='3.12.1', python3='3.13.0'), 'python3'),
        ('setup BASE_PYTHON=python3.14', dict(venv='3.12.1', python3_14='3.14.0'), 'python3.14'),
        ('setup PYTHON=mine', dict(python3='3.13.0', mine='3.14.0'), 'mine'),
    ],
)
def test_python_that_is_built_on(make, arguments, versions, chosen):
    done = make(arguments, **versions)
    assert done.stdout.startswith(f'{chosen} tools/setup_env.py'), done


@pytest.mark.parametrize(
    ('arguments', 'versions', 'said'),
    [
        ('setup TRIED=python3', dict(python3='3.10.18'), '3.13 runs as python3; apt-get'),
        ('setup TRIED=python3', dict(python3='3.15.0'), 'make BASE_PYTHON=/path/to/python3.13'),
        ('setup TRIED=python3', dict(python3='3.14.0'), 'make BASE_PYTHON=python3 takes the newer'),
        ('setup BASE_PYTHON=old', dict(python3='3.12.0', old='3.10.1'), 'runs as old; apt-get'),
        ('setup BASE_PYTHON=dead', dict(python3='3.12.0', dead='0'), 'runs as dead; apt-get'),
        ('test PYTHON=dead', dict(python3='3.12.0', dead='0'), 'PYTHON=dead is no Python that'),
        ('test PYTHON=old', dict(python3='3.12.0', old='3.8.1'), 'PYTHON=old is no Python that'),
    ],
)
def test_no_python_to_build_on_is_one_line(make, arguments, versions, said):
    done = make(arguments, **versions)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.count('\n') == 1 and said in done.stderr


def test_pythons_are_the_same_everywhere():
    """In the distribution's metadata, in what make takes, and on the hosted machines."""
    setup_cfg, makefile = ((ROOT / name).read_text() for name in ('setup.cfg', 'Makefile'))
    minors = [int(minor) for minor in re.findall(r'Python :: 3\.(\d+)', setup_cfg)]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert f'python_requires = >=3.{minors[0]}\n' in setup_cfg
    assert f'(3, {minors[0]}) <=' in makefile
    assert f'$(call first,$(TRIED),{minors[-1]})' in makefile
    tried = re.search(r'^TRIED := (.*)', makefile, re.MULTILINE)[1]
    assert sorted(re.findall(r'python3\.(\d+)', tried)) == [str(minor) for minor in minors]
    (job,) = yaml.safe_load(WORKFLOW.read_text())['jobs'].values()
    assert job['strategy']['matrix']['python'] == [f'3.{minor}' for minor in minors]


def test_hosted_machines_run_the_two_commands_of_the_readme():
    (job,) = yaml.safe_load(WORKFLOW.read_text())['jobs'].values()
    commands = [step['run'] for step in job['steps'] if 'run' in step]
    readme = (ROOT / 'README.md').read_text().partition('## Two commands')[2].partition('\n## ')[0]
    assert [line.split()[:2] for line in commands] == [
        line.split() for line in re.findall(r'^```\n(make .+)\n```$', readme, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ('missing', 'name', 'command'),
    [
        (['mmdet', 'pytest'], 'onedl', ".[onedl,dev]'"),
        (['mmseg'], 'openmmlab', ".[openmmlab,dev]'"),
        (['mmcv._ext'], 'onedl', 'py -m pip install --no-deps -e .'),
        (['mmcv._ext', 'mmlab_inline', 'ruff'], 'onedl', '-e . && py -m pip install ruff'),
        (['pytest', 'xdist'], 'onedl', 'py -m pip install pytest pytest-xdist'),
        (['mkdocs', 'material'], 'onedl', 'py -m pip install -r requirements/docs.txt'),
    ],
)
def test_remedy_for_an_existing_environment(env, missing, name, command):
    assert env.environment.remedy_for(missing, 'py', name).endswith(command)


def check(python, target, **variables):
    """Checks an environment as the Makefile does."""
    return subprocess.run(
        [python, str(SCRIPT), '--check', target],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


def test_existing_environment_is_only_checked(tmp_path):
    bare = tmp_path / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', bare], check=True)
    python = bare / 'bin/python'
    result = check(python, 'lint', PYTHONPATH='')
    assert result.returncode == 2
    assert result.stderr == f'set-up: {python} lacks ruff; {python} -m pip install ruff\n'


def test_existing_environment_with_both_families(env, monkeypatch):
    installed = {'onedl-mmcv': '2.3.6', 'mmdet': '3.3.0'}
    monkeypatch.setattr(env.environment, 'installed_distributions', lambda: installed)
    with pytest.raises(env.SetupError, match=r'both families.*uninstall -y onedl-mmcv mmdet &&'):
        env.check_existing('demo')


def test_modules_are_looked_for_without_importing_them(env, tmp_path, monkeypatch):
    """The module that is shipped with this package lies in mmcv's folder, or where it says so."""
    (tmp_path / 'some').mkdir()
    (tmp_path / 'some' / '__init__.py').write_text('raise SystemExit(1)')
    (tmp_path / 'folder').mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    names = ('some', 'some._there', 'folder', 'absent', 'absent.module')
    found = {name: env.place(name) for name in names}
    assert found == {**dict.fromkeys(names), 'some': str(tmp_path / 'some/__init__.py')}
    (tmp_path / 'some' / '_there.py').touch()
    importlib.invalidate_caches()
    assert env.place('some._there') == str(tmp_path / 'some/_there.py')

"""The pure parts of tools/setup_env.py: what it decides, not what it installs."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'


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


def test_pins_are_read_from_all_files_of_the_family(env, checkout, onedl, openmmlab):
    shared = {'torch': '2.12.1', 'rich': '15.0.0'}
    assert env.read_pins(onedl, checkout) == {**shared, 'onedl-mmcv': '2.3.6'}
    assert env.read_pins(openmmlab, checkout) == {**shared, 'mmcv-lite': '2.1.0'}


@pytest.mark.parametrize('name', ['onedl', 'openmmlab'])
def test_every_requirement_of_the_project_is_pinned_once(env, name):
    family = env.FAMILIES[name]
    lines = [line for path in family.requirements for line in (ROOT / path).read_text().split('\n')]
    names = [line.split('==')[0] for line in lines if line and not line.startswith('#')]
    assert sorted(names) == sorted(env.read_pins(family))
    mmcv = env.environment.FAMILIES[name]['mmcv'][0]
    assert {'torch', 'torchvision', mmcv, env.HEADLESS} <= set(names)


def test_every_requirement_file_is_of_a_family(env):
    read = {ROOT / path for family in env.FAMILIES.values() for path in family.requirements}
    assert read == set((ROOT / 'requirements').iterdir())


def test_families_differ_in_the_libraries_alone(env, onedl, openmmlab):
    pins = [env.read_pins(family).items() for family in (onedl, openmmlab)]
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
    before = env.fingerprint(onedl, checkout, '3.11.2')
    assert env.fingerprint(onedl, checkout, '3.11.2') == before
    replace(checkout / name, old, new)
    assert env.fingerprint(onedl, checkout, '3.11.2') != before


def test_fingerprint_follows_python_and_place(env, onedl, checkout, tmp_path_factory):
    before = env.fingerprint(onedl, checkout, '3.11.2')
    elsewhere = shutil.copytree(checkout, tmp_path_factory.mktemp('elsewhere') / 'checkout')
    assert env.fingerprint(onedl, checkout, '3.11.3') != before
    assert env.fingerprint(onedl, elsewhere, '3.11.2') != before


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


def test_folders_on_one_disk_are_added_up(env, monkeypatch):
    root, temp = Path('/root'), Path('/tmp')
    needs = [(root, 6.0), (temp, 3.0)]

    def problems(devices, free):
        monkeypatch.setattr(env.os, 'stat', lambda path: SimpleNamespace(st_dev=devices[path]))
        monkeypatch.setattr(
            env.shutil, 'disk_usage', lambda path: SimpleNamespace(free=free[path] * 2**30)
        )
        found = env.disk_problems(needs)
        monkeypatch.undo()
        return found

    (problem,) = problems({root: 1, temp: 1}, {root: 8.0})
    assert '8.0 GB free' in problem and '9 GB needed' in problem
    (problem,) = problems({root: 1, temp: 2}, {root: 8.0, temp: 1.0})
    assert '/tmp' in problem and 'TMPDIR' in problem
    assert problems({root: 1, temp: 1}, {root: 9.0}) == []


def looks(env, **versions):
    """Finds these Pythons, underscores for the dots in their names, and no others."""
    found = {name.replace('_', '.'): version for name, version in versions.items()}
    return lambda path: env.Base(path, found[path]) if path in found else None


def test_python3_is_preferred_when_in_range(env):
    base = env.find_base(None, 'make', looks(env, python3='3.11.9', python3_12='3.12.1'))
    assert base == ('python3', '3.11.9')


def test_candidates_that_do_not_run_are_passed_over(env):
    base = env.find_base(None, 'make', looks(env, python3='3.10.2', python3_12='3.12.7'))
    assert base.path == 'python3.12'


@pytest.mark.parametrize('version', ['3.10.18', '3.15.0'])
def test_no_python_in_range(env, version):
    with pytest.raises(env.SetupError, match=r'no Python 3\.11 to 3\.13.*BASE_PYTHON=') as error:
        env.find_base(None, 'make setup', looks(env, python3=version))
    assert error.value.code == 2


def test_chosen_python_out_of_range_or_dead(env):
    look = looks(env, python3_15='3.15.0')
    with pytest.raises(env.SetupError, match=r'is Python 3\.15\.0; needed is 3\.11 to 3\.13'):
        env.find_base('python3.15', 'make', look)
    with pytest.raises(env.SetupError, match='does not run'):
        env.find_base('python3.99', 'make', look)


def test_classifiers_and_range_agree(env):
    setup_cfg = (ROOT / 'setup.cfg').read_text()
    minors = [int(minor) for minor in re.findall(r'Python :: 3\.(\d+)', setup_cfg)]
    assert minors == list(range(env.OLDEST[1], env.NEWEST[1] + 1))
    assert 'python_requires = >={}.{}\n'.format(*env.OLDEST) in setup_cfg


def test_probe(env, tmp_path):
    for name, script in {'fails': 'echo no such version; exit 127', 'babbles': 'echo 3'}.items():
        shim = tmp_path / name
        shim.write_text(f'#!/bin/sh\n{script}\n')
        shim.chmod(0o755)
        assert env.probe(str(shim)) is None
    assert env.probe(str(tmp_path / 'missing')) is None
    assert env.probe(sys.executable).version == '{}.{}.{}'.format(*sys.version_info)


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


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=ROOT
    )


def test_existing_environment_is_only_checked(tmp_path):
    bare = tmp_path / 'python'
    bare.write_text(f'#!/bin/sh\nexec {sys._base_executable} -S "$@"\n')
    bare.chmod(0o755)
    result = run('--check', str(bare), '--target', 'lint')
    assert result.returncode == 2
    assert result.stderr == f'set-up: {bare} lacks ruff; {bare} -m pip install ruff\n'


@pytest.mark.parametrize('arguments', [('--base-python', '/bin/false'), ('--check', '/bin/false')])
def test_bad_input_is_one_line_and_status_2(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 1 and 'does not run' in result.stderr


def test_existing_environment_with_both_families(env, monkeypatch):
    answer = {'found': dict.fromkeys(env.NEEDED['demo'], '/'), 'names': ['onedl-mmcv', 'mmdet']}
    monkeypatch.setattr(env.subprocess, 'check_output', lambda *args, **kwargs: json.dumps(answer))
    with pytest.raises(env.SetupError, match=r'both families.*uninstall -y onedl-mmcv mmdet &&'):
        env.check_existing('python3', 'demo')


def test_modules_are_looked_for_without_importing_them(env, tmp_path):
    """The module that is shipped with this package lies in mmcv's folder, or where it says so."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '__init__.py').write_text('raise SystemExit(1)')
    (tmp_path / 'folder').mkdir()

    def probe():
        command = [sys.executable, '-c', env.PROBE_MODULES, 'mmcv', 'mmcv._there', 'folder']
        environ = {**os.environ, 'PYTHONPATH': str(tmp_path)}
        return json.loads(subprocess.check_output(command, env=environ))['found']

    assert probe() == {'mmcv': str(tmp_path / 'mmcv'), 'mmcv._there': False, 'folder': ''}
    (tmp_path / 'mmcv' / '_there.py').touch()
    assert probe()['mmcv._there'] is True

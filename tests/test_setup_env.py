"""The pure parts of tools/setup_env.py: what it decides, not what it installs."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'

SETUP_CFG = '[metadata]\ndescription = a\n[options]\ninstall_requires =\n    torch>=2.1\n'
PINS = {'torch': '2.12.1', 'onedl-mmcv': '2.3.6'}


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
    requirements = {
        'onedl-build': '# why\ntorch==2.12.1\nnumpy==2.2.6\n',
        'onedl': 'onedl-mmcv==2.3.6\n',
        'openmmlab-build': 'torch==2.1.2\n',
        'openmmlab': 'mmcv==2.1.0\n',
        'runtime': 'rich==15.0.0\n',
        'dev': '',
        'docs': '',
    }
    (tmp_path / 'requirements').mkdir()
    for name, text in requirements.items():
        (tmp_path / 'requirements' / f'{name}.txt').write_text(text)
    (tmp_path / 'setup.cfg').write_text(SETUP_CFG)
    return tmp_path


@pytest.fixture
def python(env):
    def make(version=(3, 11, 2), **changes):
        facts = {'has_venv': True, 'has_pip': True, 'has_headers': True, **changes}
        return env.Interpreter('/usr/bin/python3', version, 'cp{}{}'.format(*version), **facts)

    return make


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_pins_are_read_from_all_files_of_the_family(env, checkout, onedl, openmmlab):
    assert env.read_pins(onedl, checkout) == {**PINS, 'numpy': '2.2.6', 'rich': '15.0.0'}
    assert env.read_pins(openmmlab, checkout) == {
        'torch': '2.1.2',
        'mmcv': '2.1.0',
        'rich': '15.0.0',
    }


@pytest.mark.parametrize('name', ['onedl', 'openmmlab'])
def test_every_requirement_of_the_project_is_pinned_once(env, name):
    family = env.FAMILIES[name]
    files = [ROOT / path for path in (family.build, *family.requirements)]
    lines = [line for path in files for line in path.read_text().splitlines()]
    names = [line.split('==')[0] for line in lines if line and not line.startswith('#')]
    assert sorted(names) == sorted(env.read_pins(family))
    assert {'torch', 'torchvision', family.mmcv, env.HEADLESS} <= set(names)


def test_every_requirement_file_is_of_a_family(env):
    read = {
        ROOT / path
        for family in env.FAMILIES.values()
        for path in (family.build, *family.requirements)
    }
    assert read == set((ROOT / 'requirements').iterdir())


def test_families_pin_the_same_names_but_the_libraries(env, onedl, openmmlab):
    in_one_only = env.read_pins(onedl).keys() ^ env.read_pins(openmmlab).keys()
    assert in_one_only and {name for name in in_one_only if 'mm' not in name} == set()


@pytest.mark.parametrize(
    ('name', 'old', 'new'),
    [
        ('requirements/onedl-build.txt', '2.12.1', '2.13.0'),
        ('requirements/onedl.txt', '2.3.6', '2.3.7'),
        ('setup.cfg', 'torch>=2.1', 'torch>=2.2'),
    ],
)
def test_fingerprint_follows_pins_and_options(env, onedl, checkout, name, old, new):
    before = env.fingerprint(onedl, checkout, '3.11.2')
    assert env.fingerprint(onedl, checkout, '3.11.2') == before
    replace(checkout / name, old, new)
    assert env.fingerprint(onedl, checkout, '3.11.2') != before


def test_fingerprint_follows_python_place_and_version(env, onedl, checkout, tmp_path_factory):
    before = env.fingerprint(onedl, checkout, '3.11.2')
    elsewhere = shutil.copytree(checkout, tmp_path_factory.mktemp('elsewhere') / 'checkout')
    assert env.fingerprint(onedl, checkout, '3.11.3') != before
    assert env.fingerprint(onedl, elsewhere, '3.11.2') != before
    (checkout / 'mmlab_inline').mkdir()
    (checkout / 'mmlab_inline' / 'version.py').write_text("__version__ = '0.2.0'\n")
    assert env.fingerprint(onedl, checkout, '3.11.2') != before


def test_fingerprint_ignores_comments_and_descriptions(env, onedl, checkout):
    before = env.fingerprint(onedl, checkout, '3.11.2')
    replace(checkout / 'requirements' / 'onedl-build.txt', '# why', '# why not')
    replace(checkout / 'setup.cfg', 'description = a', 'description = b')
    assert env.fingerprint(onedl, checkout, '3.11.2') == before


def test_wheel_key_names_all_it_was_compiled_for(env, onedl):
    key = env.wheel_key(onedl, 'cp311', PINS, 'cpu')
    others = [
        env.wheel_key(onedl, 'cp312', PINS, 'cpu'),
        env.wheel_key(onedl, 'cp311', {**PINS, 'torch': '2.13.0'}, 'cpu'),
        env.wheel_key(onedl, 'cp311', {**PINS, 'onedl-mmcv': '2.3.7'}, 'cpu'),
        env.wheel_key(onedl, 'cp311', PINS, 'cuda13.0-sm9.0'),
    ]
    assert key.startswith('cp311-') and key.endswith('-torch2.12.1-onedl-mmcv2.3.6-cpu')
    assert len({key, *others}) == 5


def test_cached_wheel_counts_only_whole_files_of_the_key(env, onedl, tmp_path):
    key = env.wheel_key(onedl, 'cp311', PINS, 'cpu')
    (tmp_path / 'building-x').mkdir()
    (tmp_path / 'building-x' / 'torn.whl').touch()
    (tmp_path / key).mkdir()
    assert env.cached_wheel(tmp_path, key) is None
    wheel = tmp_path / key / 'onedl_mmcv.whl'
    wheel.touch()
    assert env.cached_wheel(tmp_path, key) == wheel
    assert env.cached_wheel(tmp_path, env.wheel_key(onedl, 'cp311', PINS, '*')) == wheel
    assert env.cached_wheel(tmp_path, env.wheel_key(onedl, 'cp312', PINS, '*')) is None


@pytest.mark.parametrize(
    ('environ', 'expected'),
    [
        ({'MMLAB_INLINE_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, Path('/a')),
        ({'XDG_CACHE_HOME': '/b'}, Path('/b/mmlab-inline')),
        ({}, Path.home() / '.cache' / 'mmlab-inline'),
    ],
)
def test_cache_folder(env, environ, expected):
    assert env.cache_dir(environ) == expected


@pytest.mark.parametrize(
    ('cores', 'memory', 'jobs'), [(2, 20, 2), (16, 9, 4), (8, 3.9, 1), (8, 1, 1), (4, None, 4)]
)
def test_max_jobs_fit_into_memory(env, cores, memory, jobs):
    assert env.max_jobs(cores, memory) == jobs


def test_memory_heeds_the_limit_of_a_container(env, tmp_path):
    meminfo = tmp_path / 'meminfo'
    meminfo.write_text('MemTotal: 99 kB\nMemAvailable:   8388608 kB\n')
    assert env.available_memory(meminfo, tmp_path) == 8
    (tmp_path / 'memory.stat').write_text('anon 1073741824\nfile 9999999999\n')
    (tmp_path / 'memory.max').write_text('max\n')
    assert env.available_memory(meminfo, tmp_path) == 8
    (tmp_path / 'memory.max').write_text('4294967296\n')
    assert env.available_memory(meminfo, tmp_path) == 3
    assert env.available_memory(tmp_path / 'none', tmp_path / 'none') is None


def test_nothing_to_say_about_a_good_machine(env, python):
    assert env.build_problems(python(), '/usr/bin/c++', 16) == []
    assert env.venv_problems(python()) == []


def test_all_build_problems_come_with_a_remedy(env, python):
    compiler, headers, memory = env.build_problems(python(has_headers=False), None, 1.5)
    assert 'apt-get install g++' in compiler
    assert 'apt-get install python3.11-dev' in headers
    assert '1.5 GB' in memory
    assert 'python3.11-venv' in env.venv_problems(python(has_venv=False))[0]


def test_all_problems_are_raised_at_once(env):
    env.refuse([])
    with pytest.raises(env.SetupError, match=r'one\ntwo') as error:
        env.refuse(['one', 'two'])
    assert error.value.code == 2


def test_compiler_is_the_one_named_or_cpp(env, tmp_path):
    assert env.find_compiler({'CXX': 'no-such-compiler -O2'}) is None
    assert env.find_compiler({'CXX': f'{sys.executable} -v'}) == sys.executable


def test_folders_on_one_disk_are_added_up(env):
    root, temp = Path('/root'), Path('/tmp')
    needs = [(root, 6.0), (temp, 3.0)]
    one = {'device': lambda path: 1, 'free': lambda path: 8.0}
    two = {'device': {root: 1, temp: 2}.get, 'free': {root: 8.0, temp: 1.0}.get}
    (problem,) = env.disk_problems(needs, **one)
    assert '8.0 GB free' in problem and '9 GB needed' in problem
    (problem,) = env.disk_problems(needs, **two)
    assert '/tmp' in problem and 'TMPDIR' in problem
    assert env.disk_problems(needs, device=one['device'], free=lambda path: 9.0) == []


def test_python3_is_preferred_when_in_range(env, onedl, python):
    found = {'python3': python((3, 10, 9)), 'python3.12': python((3, 12, 1))}
    assert env.find_base(onedl, None, found.get).release == '3.10'


def test_candidates_that_do_not_run_are_passed_over(env, onedl, python):
    found = {'python3': python((3, 13, 0)), 'python3.11': python((3, 11, 7))}
    assert env.find_base(onedl, None, found.get).release == '3.11'


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 13, 0)])
def test_no_python_in_range(env, onedl, python, version):
    with pytest.raises(env.SetupError, match=r'no Python 3\.10 to 3\.12.*BASE_PYTHON=') as error:
        env.find_base(onedl, None, {'python3': python(version)}.get)
    assert error.value.code == 2


def test_chosen_python_out_of_range_or_dead(env, onedl, python):
    found = {'python3.13': python((3, 13, 0))}
    with pytest.raises(env.SetupError, match=r'is Python 3\.13\.0; needed is 3\.10 to 3\.12'):
        env.find_base(onedl, 'python3.13', found.get)
    with pytest.raises(env.SetupError, match='does not run'):
        env.find_base(onedl, 'python3.99', found.get)


def test_openmmlab_takes_no_python_3_12(env, openmmlab, python):
    found = {'python3': python((3, 12, 1)), 'python3.11': python((3, 11, 2))}
    assert env.find_base(openmmlab, None, found.get).release == '3.11'
    with pytest.raises(env.SetupError, match=r'is Python 3\.12\.1; needed is 3\.10 to 3\.11'):
        env.find_base(openmmlab, 'python3', found.get)


def test_probe(env, tmp_path):
    shim = tmp_path / 'python3.12'
    shim.write_text('#!/bin/sh\necho "python3.12: command not found"\nexit 127\n')
    shim.chmod(0o755)
    assert env.probe(str(shim)) is None
    assert env.probe(str(tmp_path / 'missing')) is None
    assert env.probe(sys.executable).version == sys.version_info[:3]


CPU = {'cuda': '13.0', 'capabilities': []}
GPU = {'cuda': '13.0', 'capabilities': ['8.0', '9.0']}


@pytest.mark.parametrize(
    ('torch', 'nvcc', 'environ', 'ops', 'note'),
    [
        (CPU, '13.0', {}, 'cpu', None),
        (GPU, '13.0', {}, 'cuda13.0-sm8.0-9.0', None),
        (GPU, '13.0', {'TORCH_CUDA_ARCH_LIST': '9.0;10.0+PTX'}, 'cuda13.0-sm9.0-10.0-PTX', None),
        (CPU, '13.0', {'FORCE_CUDA': '1'}, 'cuda13.0-smdefault', None),
        (GPU, None, {}, 'cpu', 'no nvcc'),
        (GPU, '12.4', {}, 'cpu', 'nvcc 12.4 does not fit'),
    ],
)
def test_cuda_ops_need_a_gpu_and_a_matching_compiler(env, onedl, torch, nvcc, environ, ops, note):
    chosen, said = env.choose_ops(onedl, torch, nvcc, environ)
    assert chosen == ops
    assert (note in said and 'make setup' in said) if note else said is None


@pytest.mark.parametrize(
    ('missing', 'name', 'command'),
    [
        (['mmdet', 'pytest'], 'onedl', ".[onedl,dev]'"),
        (['mmseg'], 'openmmlab', ".[openmmlab,dev]'"),
        (
            ['mmcv._ext'],
            'onedl',
            '--force-reinstall --no-deps --no-build-isolation --no-cache-dir onedl-mmcv',
        ),
        (['mmlab_inline', 'ruff'], 'onedl', '--no-deps -e . && py -m pip install ruff'),
        (['pytest', 'xdist'], 'onedl', 'py -m pip install pytest pytest-xdist'),
        (['mkdocs', 'material'], 'onedl', 'py -m pip install -r requirements/docs.txt'),
    ],
)
def test_remedy_for_an_existing_environment(env, missing, name, command):
    assert env.remedy_for(missing, 'py', name).endswith(command)


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

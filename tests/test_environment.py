"""``python -m mmlab_inline`` reports on any environment, whatever in it is broken."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmlab_inline import __version__, environment

ROOT = Path(__file__).parents[1]


def write_modules(folder, modules):
    """Write modules, path to source; they come before the installed ones."""
    for name, source in modules.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def run_report(folder, **variables):
    """Run the command as a user would, with the modules of a folder before all others."""
    done = subprocess.run(
        [sys.executable, '-m', 'mmlab_inline'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}', **variables},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    facts = dict(line.split(None, 1) for line in done.stdout.splitlines() if '  ' in line)
    problems = [
        line.removeprefix('problem: ')
        for line in done.stdout.splitlines()
        if line.startswith('problem: ')
    ]
    assert done.returncode == bool(problems)
    return facts, problems


def test_torch_that_does_not_load(tmp_path):
    error = 'OSError: libcudart.so.12: cannot open shared object'
    write_modules(tmp_path, {'torch.py': f'raise OSError("{error.partition(" ")[2]}")'})
    facts, problems = run_report(tmp_path, CUDA_VISIBLE_DEVICES='', PATH='/nowhere')
    assert facts['mmlab-inline'].startswith(f'{__version__} in {ROOT}')
    assert facts['torch'].startswith(f'does not import: {error}')
    assert facts['numpy'][0].isdigit()
    assert "CUDA_VISIBLE_DEVICES=''" in facts['variables']
    assert problems[0].startswith(f'torch does not import: {error}; ')
    assert 'docs/install.md' in problems[0]


def test_mmcv_whose_ops_do_not_load(tmp_path):
    healthy = ('torchvision', 'triton', 'timm', 'cv2', 'mmengine')
    modules = {
        **{f'{name}.py': '' for name in healthy},
        'torch.py': 'class cuda: is_available = bool\nclass version: cuda = None',
        'mmcv/__init__.py': '__version__ = "2.3.6"',
        'mmcv/ops.py': 'raise ImportError("/mmcv/_ext.so: undefined symbol: _ZN3c105ErrorC2E")',
        'mmcv/_ext.py': '',
        'mmdet.py': 'raise AssertionError("MMCV==2.2.0 is used but incompatible.\\n Take 2.1")',
        'mmseg.py': '__version__ = "1.4.2"',
    }
    write_modules(tmp_path, modules)
    facts, problems = run_report(tmp_path)
    assert facts['torch'] == 'imports, CUDA not available, cuDNN None; no GPU'
    assert facts['mmcv'].startswith('2.3.6')
    assert facts['mmcv.ops'].startswith('does not import: ImportError: /mmcv/_ext.so: undefined')
    assert facts['mmseg'].startswith('1.4.2')
    ops, mmdet, own = problems
    assert ops.startswith('mmcv.ops does not import') and ' -m pip uninstall -y ' in ops
    assert mmdet.startswith('mmdet does not import: AssertionError: MMCV==2.2.0 is used')
    assert "'mmcv-lite>=2.1,<2.2'" in mmdet
    assert own.startswith('mmlab_inline does not import')


def test_backbones_that_do_not_load(tmp_path):
    """Importing the package alone would not show it: that takes no torch."""
    modules = dict.fromkeys(('torchvision.py', 'triton.py', 'timm.py', 'cv2.py', 'mmdet.py'), '')
    modules |= {
        'torch.py': 'class cuda: is_available = bool\nclass version: cuda = None',
        'mmcv/__init__.py': '',
        'mmcv/_ext.py': '',
        'mmcv/ops.py': 'get_compiling_cuda_version = str',
        'mmseg.py': '',
    }
    write_modules(tmp_path, modules)
    _, (problem,) = run_report(tmp_path)
    assert problem.startswith('mmlab_inline does not import') and 'torch' in problem
    assert 'says what to do' not in problem


def test_modules_that_end_python_hang_or_print(tmp_path, monkeypatch):
    modules = {
        'aborts.py': 'import os; os.abort()',
        'exits.py': 'raise SystemExit(3)',
        'prints.py': 'print("[1, 2]"); __version__ = "7"',
        'hangs.py': 'import time; time.sleep(60)',
    }
    write_modules(tmp_path, modules)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = environment.probe_modules(('prints', 'aborts', 'exits', 'hangs', 'json'), timeout=2)
    assert found == {
        'prints': {'version': '7'},
        'aborts': {'error': 'the import ends Python with status -6'},
        'exits': {'error': 'SystemExit: 3'},
        'hangs': {'error': 'the import takes longer than 2 s'},
        'json': {'version': '2.0.9'},
    }


def test_a_library_that_failed_is_the_same_to_all_who_import_it(tmp_path, monkeypatch):
    """Its first failure leaves parts behind, and a second one in that process is another."""
    half = 'import sys; again = "half.part" in sys.modules; import half.part; '
    modules = {
        'half/__init__.py': half + 'raise RuntimeError("no half.part" if again else "the cause")',
        'half/part.py': '',
        'user.py': 'import half',
    }
    write_modules(tmp_path, modules)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = environment.probe_modules(('half', 'user', 'absent', 'json'))
    assert found['half'] == found['user'] == {'error': 'RuntimeError: the cause'}
    assert found['absent'] == {'error': "ModuleNotFoundError: No module named 'absent'"}
    assert found['json'] == {'version': '2.0.9'}


def problems_of(installed=None, **errors):
    facts = {name: {'error': error} for name, error in errors.items()}
    return list(environment.find_problems(facts, installed or {}))


def test_no_problem():
    installed = {'onedl-mmcv': '2.3.6', 'opencv-python': '4.12', 'opencv-python-headless': '4.12'}
    facts = {'numpy': {'version': '2'}, 'triton': {'error': "No module named 'triton'"}}
    assert list(environment.find_problems(facts, installed)) == []


def test_two_families():
    (problem,) = problems_of({'onedl-mmcv': '2.3.6', 'mmcv': '2.1.0', 'mmdet': '3.3.0'})
    assert problem.startswith('both families') and 'uninstall -y onedl-mmcv mmcv mmdet' in problem


def test_two_versions_of_opencv():
    (problem,) = problems_of({'opencv-python': '4.12', 'opencv-python-headless': '4.11'})
    assert 'opencv-python 4.12, opencv-python-headless 4.11' in problem


@pytest.mark.parametrize(
    ('compiled', 'cuda', 'problem'),
    [
        ('/env/mmcv/_ext.so', 'not available', '; rm /env/mmcv/_ext.so'),
        ('/env/mmcv/_ext.so', '13.0', None),
        ('', 'not available', 'uninstall -y torch torchvision && {pip} install torch torchvision'),
        ('', '13.0', None),
    ],
)
def test_gpu_and_who_serves_the_ops(compiled, cuda, problem):
    ops = {'version': '', 'cuda': cuda, 'compiled': compiled}
    facts = {'torch': {'version': '2', 'gpus': ['H200']}, 'mmcv.ops': ops}
    problems = list(environment.find_problems(facts, {}))
    pip = f'{sys.executable} -m pip'
    wanted = [problem.format(pip=pip)] if problem else []
    assert len(problems) == len(wanted) and ''.join(problems).endswith(''.join(wanted))
    assert not list(environment.find_problems({**facts, 'torch': {'gpus': []}}, {}))


def test_what_is_said_of_ops_and_attention(monkeypatch):
    ops = {'version': '2.3.6', 'cuda': '13.0', 'compiled': ''}
    attention = {'cpu': 'banded', 'cuda:0 H200': 'fused (Triton kernels)'}
    facts = {'mmcv.ops': ops, 'mmlab_inline': {'attention': attention}}
    monkeypatch.setattr(environment, 'probe_modules', lambda: facts)
    lines = dict(line.split(None, 1) for line in environment.report() if '  ' in line)
    assert lines['attention'] == 'cpu: banded, cuda:0 H200: fused (Triton kernels)'
    assert lines['mmcv.ops'] == (
        '2.3.6, served: nms, roi_align, deform_conv, modulated_deform_conv by torchvision; '
        'softnms, sigmoid_focal_loss, softmax_focal_loss, ms_deform_attn by plain PyTorch, '
        'CUDA 13.0'
    )
    ops['compiled'] = '/env/mmcv/_ext.so'
    facts['mmlab_inline'] = {'error': 'ImportError: torn'}
    lines = dict(line.split(None, 1) for line in environment.report() if '  ' in line)
    assert lines['mmcv.ops'] == '2.3.6, all compiled, CUDA 13.0'
    assert lines['attention'] == 'unknown'


def test_ops_are_served_by_whom_the_report_names():
    tree = ast.parse((ROOT / 'mmcv_ops/_ext.py').read_text())
    served = {'torchvision': set(), 'plain PyTorch': set()}
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and not function.name.startswith(('_', 'get_')):
            whom = 'torchvision' if '_ops.' in ast.unparse(function) else 'plain PyTorch'
            served[whom].add(re.sub('_(forward|backward).*', '', function.name))
    assert served == {whom: set(ops) for whom, ops in environment.SERVED_OPS.items()}


def test_attention_is_asked_for():
    (found,) = environment.probe_modules(('mmlab_inline',)).values()
    assert found['attention']['cpu'].startswith('in float32 banded')


def test_mmcv_that_is_not_there(tmp_path):
    """Its folder is: the module of this package lies in it."""
    write_modules(tmp_path, {'mmcv/_ext.py': ''})
    names = ('json', 'mmcv')
    command = [sys.executable, '-S', '-c', environment.PROBE, *names]
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    printed = subprocess.check_output(command, env=env, text=True).splitlines()
    assert "No module named 'mmcv.__init__'" in printed[1]


SITE = '/home/me/torch/lib/python3.11/site-packages'  # an environment of that name
# Not pip's --force-reinstall, which takes the newest of what torch requires along.
ANEW = f'uninstall -y torch torchvision && {sys.executable} -m pip install torch torchvision'


@pytest.mark.parametrize(
    ('module', 'error', 'remedy'),
    [
        (
            'mmcv.ops',
            "ImportError: No module named 'mmcv._ext'",
            'pip install --no-deps -e .',
        ),
        ('timm', 'RuntimeError: operator torchvision::nms does not exist', ANEW),
        (
            'torchvision',
            'RuntimeError: Detected that PyTorch and torchvision were compiled with different CUDA '
            'major versions. PyTorch has CUDA Version=13.0 and torchvision has CUDA Version=12.8.',
            ANEW,
        ),
        ('torch', f'ImportError: {SITE}/torch/lib/libtorch_cuda.so: undefined symbol: nccl', ANEW),
        ('torchvision', f'ImportError: {SITE}/torchvision/_C.so: undefined symbol: _ZN3c10', ANEW),
        ('cv2', f'ImportError: {SITE}/cv2/cv2.abi3.so: undefined symbol: png', 'docs/install.md'),
        ('mmcv.ops', f'ImportError: {SITE}/mmcv/_ext.so: undefined symbol: _Z', 'dir onedl-mmcv'),
        ('cv2', 'ImportError: libGL.so.1: cannot open', "opencv-python-headless<4.13'"),
        ('mmdet', 'AssertionError: MMCV==2.2.0 is used but incompatible', "'mmcv-lite>=2.1,<2.2'"),
        (
            'mmcv.ops',
            'ImportError: mmcv.ops needs the torchvision that belongs to torch 2.12.1 (no nms)',
            ANEW,
        ),
        ('mmdet', "ModuleNotFoundError: No module named 'mmdet'", "-e '.[onedl,dev]'"),
        ('mmseg', "ModuleNotFoundError: No module named 'ftfy'", '-m pip install ftfy'),
        ('mmseg', 'TypeError: unheard of', 'docs/install.md'),
    ],
)
def test_remedies(module, error, remedy):
    (problem,) = problems_of(**{module: error})
    assert problem.startswith(f'{module} does not import: {error}; ')
    assert remedy in problem


@pytest.mark.parametrize(
    ('installed', 'headless'),
    [
        ({'opencv-python': '4.12.0.88'}, 'opencv-python-headless==4.12.0.88'),
        ({'opencv-contrib-python': '4.11'}, 'opencv-contrib-python-headless==4.11'),
        (dict.fromkeys(environment.OPENCV[:2], '4.11'), 'opencv-python-headless==4.11'),
    ],
)
def test_opencv_without_libgl_is_of_the_version_that_is_there(installed, headless):
    (problem,) = problems_of(installed, cv2='ImportError: libGL.so.1: cannot open')
    assert problem.endswith(f'--no-deps --force-reinstall {headless}')


@pytest.mark.parametrize('family', environment.FAMILIES)
def test_remedies_where_there_is_no_checkout(monkeypatch, family):
    """A wheel does not stay: its requirements are named."""
    monkeypatch.setattr(environment, 'CHECKOUT', False)
    required = ['torch>=2.7', 'onedl-mmcv>=2; extra == "onedl"', 'mmdet>=3 ; extra == "openmmlab"']
    monkeypatch.setattr(environment, 'requires', lambda name: [*required, 'ruff; extra == "dev"'])
    own = {'onedl': 'onedl-mmcv>=2', 'openmmlab': 'mmdet>=3'}[family]
    remedy = environment.remedy_for(['mmseg'], 'py', family)
    assert remedy == f"py -m pip install 'torch>=2.7' '{own}'"
    (problem,) = problems_of(mmcv="ImportError: No module named 'mmcv._ext'")
    assert problem.endswith('install --no-deps --force-reinstall /path/to/mmlab_inline-*.whl')
    both = environment.both_families(['onedl-mmcv', 'mmcv'], 'py')
    assert both.endswith("&& py -m pip install 'torch>=2.7' 'onedl-mmcv>=2'")


def test_remedy_where_the_metadata_are_gone(monkeypatch):
    def fail(name):
        raise environment.PackageNotFoundError(name)

    monkeypatch.setattr(environment, 'CHECKOUT', False)
    monkeypatch.setattr(environment, 'requires', fail)
    remedy = environment.remedy_for(['mmseg'], 'py', 'openmmlab')
    assert remedy == 'py -m pip install mmengine mmcv-lite mmdet mmsegmentation'


@pytest.mark.parametrize(
    ('installed', 'module', 'missing', 'remedy'),
    [
        ({'mmcv-lite': '2.1.0'}, 'mmcv.ops', 'mmcv.ops.nms', "no-cache-dir 'mmcv-lite>=2.1,<2.2'"),
        ({'onedl-mmcv': '2.3.6'}, 'mmcv', 'mmcv', 'no-cache-dir onedl-mmcv'),
        ({}, 'mmcv', 'mmcv.__init__', 'no-cache-dir onedl-mmcv'),
        ({}, 'mmcv', 'mmcv', "-e '.[onedl,dev]'"),
        ({'mmdet': '3.3.0'}, 'mmdet', 'mmdet.apis', '--force-reinstall --no-deps mmdet==3.3.0'),
        ({'mmdet': '3.3.0'}, 'mmseg', 'mmseg', "-e '.[openmmlab,dev]'"),
    ],
)
def test_half_installed_libraries(installed, module, missing, remedy):
    (problem,) = problems_of(installed, **{module: f"ImportError: No module named '{missing}'"})
    assert problem.endswith(remedy)


def test_one_cause_is_one_problem():
    error = "ModuleNotFoundError: No module named 'torch'"
    assert len(problems_of(torch=error, timm=error, mmengine=error)) == 1


def test_what_one_command_mends_is_one_problem():
    errors = {
        'torchvision': 'RuntimeError: operator torchvision::nms does not exist',
        'timm': 'ImportError: libc10.so: no such file',
        'mmcv.ops': 'ImportError: mmcv.ops needs the torchvision that belongs to torch 2 (no nms)',
        'mmdet': 'AttributeError: unheard of',
    }
    problems = problems_of(**errors)
    assert [problem.split()[0] for problem in problems] == ['torchvision', 'timm', 'mmdet']


def test_symptoms_are_documented():
    page = (ROOT / 'docs/install.md').read_text()
    for pattern, _ in environment.SYMPTOMS:
        assert re.search(pattern, page), pattern


def test_report_is_not_stopped_by_its_own_errors(monkeypatch):
    def fail():
        raise PermissionError('no processes\nfor you')

    monkeypatch.setattr(environment, 'probe_modules', fail)
    lines = list(environment.report())
    assert 'problem: this report is incomplete: PermissionError: no processes for you' in lines
    assert lines[0].startswith('mmlab-inline')


def test_package_on_a_library_that_does_not_import(tmp_path):
    write_modules(tmp_path, {'torch.py': 'raise OSError("libcudart.so: no such file")'})
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    command = [sys.executable, '-c', 'from mmlab_inline import InLinePVT']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert last.endswith('libcudart.so: no such file; python -m mmlab_inline says what to do')


def test_tool_on_a_library_that_does_not_import(tmp_path):
    """It ends with the first problem of the report."""
    slow = {f'{name}.py': '' for name in ('mmdet', 'mmseg')}  # to import for the report
    write_modules(tmp_path, {**slow, 'torch.py': 'raise OSError("libc10.so is torn")'})
    command = [sys.executable, str(ROOT / 'tools/convert_checkpoint.py'), 'x.pth', 'y.pth']
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert done.stderr.startswith('error: torch does not import: OSError: libc10.so is torn; ')


@pytest.mark.parametrize('tool', ['train.py', 'infer.py', 'analysis/get_flops.py'])
@pytest.mark.parametrize('names', [('onedl-mmcv', 'mmcv-lite'), ('mmengine', 'onedl_mmdetection')])
def test_tool_where_both_families_are_installed(tmp_path, tool, names):
    """Both import, one's files among the other's: it says so before anything is done."""
    for name in names:
        (tmp_path / f'{name.replace("-", "_")}-2.0.dist-info').mkdir()
        text = f'Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n'
        (tmp_path / f'{name.replace("-", "_")}-2.0.dist-info/METADATA').write_text(text)
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    command = [sys.executable, str(ROOT / 'tools' / tool), 'config.py', 'x.pth', 'image.png']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout and done.stderr.count('\n') == 1
    assert done.stderr.startswith('error: both families of mm libraries are installed (')
    assert ' -m pip uninstall -y onedl-mm' in done.stderr
    assert done.stderr.endswith(" -m pip install -e '.[onedl]'\n")


def test_import_error_that_is_not_of_the_environment(monkeypatch, capsys):
    monkeypatch.setattr(environment, 'probe_modules', dict)
    monkeypatch.setattr(environment, 'installed_distributions', dict)
    environment.explain_import_error(ImportError, ImportError('mine'), None)
    assert capsys.readouterr().err == 'ImportError: mine\n'


def test_package_run_as_a_module_imports_everything(tmp_path):
    """Only the report does without: other programs started by -m get the whole package."""
    source = 'from mmlab_inline import InLinePVT'
    write_modules(tmp_path, {'mine/__init__.py': source, 'mine/__main__.py': ''})
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    subprocess.run([sys.executable, '-m', 'mine'], cwd=tmp_path, env=env, check=True)

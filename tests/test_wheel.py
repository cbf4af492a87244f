"""A wheel carries configs, tools and the model index: train from it, without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmlab_inline.datasets import write_dataset

mmcv = pytest.importorskip('mmcv')
pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

ROOT = Path(__file__).parents[1]
SOURCES = (
    'mmlab_inline',
    'mmcv_ops',
    'configs',
    'tools',
    'README.md',
    'LICENSE',
    'model-index.yml',
    'pyproject.toml',
    'setup.cfg',
    'setup.py',
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """Folder that the wheel is installed to, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp('wheel')
    (folder / 'checkout').mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / 'checkout' / name, symlinks=True)
        else:
            shutil.copy2(ROOT / name, folder / 'checkout' / name)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
    build = [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'checkout']
    subprocess.run(build, check=True)
    (wheel,) = folder.glob('*.whl')
    shutil.rmtree(folder / 'checkout')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def test_wheel_is_complete(site):
    carried = site / 'mmlab_inline/.mim'
    for folder, patterns in {
        'configs': ('*.py', 'metafile.yml', 'README.md'),
        'tools': ('*.py', '*.sh'),
    }.items():
        for pattern in patterns:
            expected = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob(pattern)}
            found = {p.relative_to(carried / folder) for p in (carried / folder).rglob(pattern)}
            assert found == expected, pattern
    assert (carried / 'model-index.yml').is_file()


def test_remedies_name_the_libraries(site, tmp_path):
    """There is no checkout to install."""
    code = (
        "from mmlab_inline import environment as e; print(e.remedy_for(['mmdet'], 'py', 'onedl'))"
    )
    env = {**os.environ, 'PYTHONPATH': str(site)}
    command = [sys.executable, '-c', code]
    said = subprocess.check_output(command, cwd=tmp_path, env=env, text=True)
    assert said.startswith("py -m pip install 'torch>=2.7' torchvision ")
    assert " 'onedl-mmdetection>=3" in said and '-e' not in said.split()
    assert 'mmcv-lite' not in said and 'pytest' not in said


def test_module_in_mmcvs_folder(site, tmp_path):
    """It joins an mmcv without compiled ops, and is all that lands there."""
    served = ROOT / 'mmcv_ops' / '_ext.py'
    (found,) = (site / 'mmcv').iterdir()
    assert found.name == '_ext.py' and found.read_text() == served.read_text()
    shutil.copytree(
        Path(mmcv.__file__).parent, tmp_path / 'mmcv', ignore=shutil.ignore_patterns('_ext*')
    )
    shutil.copy2(found, tmp_path / 'mmcv')
    code = 'import sys, mmcv.ops; print(sys.modules["mmcv._ext"], "mmlab_inline" in sys.modules)'
    env = {**os.environ, 'PYTHONPATH': str(tmp_path), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', code]
    printed = subprocess.check_output(command, cwd=tmp_path, env=env, text=True)
    assert printed == f"<module 'mmcv._ext' from '{tmp_path / 'mmcv' / '_ext.py'}'> False\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ('base', 'options'),
    [
        (
            'mask-rcnn_inline-pvt-demo_shapes.py',
            [
                'train_dataloader.dataset.indices=16',
                'train_cfg.max_epochs=1',
                'train_cfg.val_interval=1',
                'default_hooks.checkpoint.interval=1',
            ],
        ),
        (
            'sem-fpn_inline-swin-demo_shapes.py',
            [
                'train_cfg.max_iters=2',
                'train_cfg.val_interval=2',
                'default_hooks.checkpoint.interval=2',
            ],
        ),
    ],
)
def test_two_iterations_from_the_wheel(site, base, options, tmp_path):
    classes = ('circle', 'ring', 'cross')
    write_dataset(tmp_path / 'work_dirs/demo/data', 16, 2, classes=classes)
    (tmp_path / 'mine.py').write_text(f"_base_ = 'mmlab_inline::demo/{base}'\n")
    env = {**os.environ, 'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    where = 'import mmlab_inline; print(mmlab_inline.__file__)'
    found = subprocess.check_output([sys.executable, '-c', where], cwd=tmp_path, env=env, text=True)
    assert found.startswith(str(site))
    train = site / 'mmlab_inline/.mim/tools/train.py'
    command = [sys.executable, str(train), 'mine.py', '--cfg-options', *options]
    done = subprocess.run(command, cwd=tmp_path, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'Trained.' in done.stdout

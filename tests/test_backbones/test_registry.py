import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import MODELS as ROOT_MODELS

import mmlab_inline
from mmlab_inline import backbones
from mmlab_inline.registry import MODELS

PACKAGE = Path(mmlab_inline.__file__).parent
HEAVY = {'mmcv', 'mmdet', 'mmseg'}


def run_python(code: str) -> str:
    """Run code in a fresh interpreter and return its output."""
    env = {**os.environ, 'PYTHONPATH': str(PACKAGE.parent), 'OMP_NUM_THREADS': '1'}
    result = subprocess.run(
        [sys.executable, '-c', code], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize('library', ['mmdet', 'mmseg'])
def test_prefixed_name_needs_no_import(library):
    pytest.importorskip(library)
    output = run_python(f"""
import sys
import torch
from {library}.registry import MODELS
assert MODELS.get('InLinePVT') is None
assert 'mmlab_inline' not in sys.modules
arch = dict(
    embed_dims=(8, 8, 8, 8), depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratios=(1,) * 4
)
pvt = MODELS.build(dict(type='mmlab_inline.InLinePVT', arch=arch, out_indices=(1, 2)))
swin = MODELS.build(dict(type='mmlab_inline.InLineSwin', arch={{**arch, 'embed_dims': 8}}))
bare = MODELS.build(dict(type='InLinePVT', arch=arch))
print(type(pvt).__name__, len(pvt(torch.rand(1, 3, 64, 64))), type(swin).__name__, type(bare))
""")
    assert output.endswith(
        "InLinePVT 2 InLineSwin <class 'mmlab_inline.backbones.inline_pvt.InLinePVT'>\n"
    )


def test_bare_name_after_an_import():
    output = run_python("""
import sys
from mmengine.registry import MODELS
from mmengine.utils import import_modules_from_strings
import_modules_from_strings(['mmlab_inline'])  # what custom_imports does
assert 'torch' not in sys.modules
arch = dict(embed_dims=(8,) * 4, depths=(1,) * 4, num_heads=(1,) * 4, mlp_ratios=(1,) * 4)
model = MODELS.build(dict(type='InLinePVT', arch=arch, drop_path_rate=0.0))
assert MODELS.get('InLinePVT') is type(model)
from mmlab_inline import InLineSwin
assert MODELS.get('InLineSwin') is InLineSwin
try:
    MODELS.build(dict(type='InLinePVT', arhc=arch))
except TypeError as error:
    print(error)
""")
    assert "InLinePVT has no keyword 'arhc' (did you mean 'arch'?)" in output


def test_every_backbone_is_announced():
    output = run_python("""
from mmengine.registry import MODELS
before = set(MODELS.module_dict)
import mmlab_inline
print(sorted(set(MODELS.module_dict) - before))
""")
    assert ast.literal_eval(output) == sorted(backbones.__all__)


def test_import_takes_none_of_the_mm_libraries():
    output = run_python(
        'import sys, mmlab_inline, mmlab_inline.registry, mmlab_inline.utils\n'
        'print(sorted(name.split(".")[0] for name in sys.modules))'
    )
    loaded = set(ast.literal_eval(output))
    assert 'mmlab_inline' in loaded
    assert not loaded & HEAVY


def test_bare_and_prefixed_names_are_the_classes():
    for cls in (getattr(backbones, name) for name in backbones.__all__):
        for registry in (MODELS, ROOT_MODELS):
            assert registry.get(cls.__name__) is cls
            assert registry.get(f'mmlab_inline.{cls.__name__}') is cls


@pytest.mark.parametrize('folder', ['ops', 'layers', 'mixers', 'backbones', 'utils', 'weights'])
def test_sources_import_none_of_the_mm_libraries(folder):
    paths = sorted((PACKAGE / folder).glob('*.py'))
    assert paths
    for path in paths:
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split('.')[0])
        assert not imported & HEAVY, path

"""What is not imported: the tools' first word and ``import mmlab_inline`` wait for no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmlab_inline import backbones, choices
from mmlab_inline.own_data.readers import formats

ROOT = Path(__file__).parents[1]
TOOLS = [
    path
    for pattern in ('*.py', 'analysis/*.py', 'dataset/*.py')
    for path in sorted((ROOT / 'tools').glob(pattern))
]
TORCH = tuple(map(int, torch.__version__.split('.')[:2]))
# Each takes a second or so, matplotlib and OpenCV half of one.
SLOW = {'torch', 'torchvision', 'timm', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'matplotlib', 'triton'}


def modules_after(code: str, *arguments: object) -> set[str]:
    """What a fresh interpreter has imported at its end."""
    code = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
{code}"""
    result = subprocess.run(
        [sys.executable, '-c', code, *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(result.stderr.splitlines()[-1]))


@pytest.mark.parametrize('tool', TOOLS, ids=lambda path: path.stem)
def test_help_imports_nothing_slow(tool):
    code = "import runpy; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], None, '__main__')"
    assert not modules_after(code, tool, '--help') & SLOW


@pytest.mark.parametrize('name', ['mmlab_inline', 'mmlab_inline.registry', 'mmlab_inline.utils'])
def test_import_takes_no_torch(name):
    modules = modules_after(f'import {name}')
    assert name in modules
    assert not modules & SLOW


@pytest.mark.skipif(
    TORCH < (2, 14), reason='mmengine takes torch.distributed.fsdp, which took the compiler in 2.7'
)
@pytest.mark.parametrize('name', ['InLineAttention', 'InLinePVT', 'InLineSwin'])
def test_classes_take_torch_without_its_compiler(name):
    modules = modules_after(f'from mmlab_inline import {name}; {name}')
    assert modules & {'torch', 'timm.layers', 'torch._dynamo', *SLOW} == {'torch'}


def test_parts_of_the_package_are_found_by_name():
    code = 'import mmlab_inline as m; m.backbones.InLinePVT, m.layers.Block, m.ops, m.registry'
    assert 'torch' in modules_after(code)


def test_unknown_name():
    import mmlab_inline

    with pytest.raises(AttributeError, match="'mmlab_inline' has no attribute 'InLineViT'"):
        mmlab_inline.InLineViT  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'InLineViT' from 'mmlab_inline'"):
        from mmlab_inline import InLineViT  # noqa: F401


def test_choices_are_what_there_is():
    assert {cls for cls, _ in choices.BACKBONES.values()} == set(backbones.__all__)
    for cls, alias in choices.BACKBONES.values():
        assert alias in vars(sys.modules[getattr(backbones, cls).__module__])['ALIASES']
    assert (*formats._OBJECTS, *formats._DIALECTS, 'label-maps') == choices.DATA_FORMATS

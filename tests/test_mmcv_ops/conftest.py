"""The module as a file: where mmcv is compiled, `mmcv._ext` is another one."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ops = pytest.importorskip('mmcv.ops')

SOURCE = Path(__file__).parents[2] / 'mmcv_ops' / '_ext.py'


@pytest.fixture(scope='session')
def load_ext() -> Callable[[], ModuleType]:
    """Loads the module from its file, whatever mmcv has under the name."""

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location('mmcv_ext_under_test', SOURCE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope='session')
def ext(load_ext: Callable[[], ModuleType]) -> ModuleType:
    """The module under test."""
    return load_ext()


@pytest.fixture
def served(ext: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets mmcv.ops call the module under test."""
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', ext)

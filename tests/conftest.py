"""Shared fixtures. Helpers are fixtures too, because test folders cannot import one another."""

import math
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmlab_inline.ops import dispatch

DATA = Path(__file__).parent / 'data'


@pytest.fixture(scope='session', autouse=True)
def one_thread() -> None:
    # Tensors here are so small that a second thread mostly waits: three times slower on a busy CPU.
    torch.set_num_threads(1)
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # in the programs that tests start


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A dtype to compute in on the CPU, as an indirect parameter; skips where PyTorch does not."""
    half = torch.ones(1, 1, dtype=request.param)
    try:
        half @ half
        with torch.autocast('cpu', request.param):
            half @ half
    except RuntimeError:
        pytest.skip(f'PyTorch {torch.__version__} does not compute in {request.param} on the CPU')
    return request.param


@pytest.fixture(scope='session')
def assert_near() -> Callable[..., None]:
    """Largest difference relative to the expected tensor's largest magnitude, or to ``scale``."""

    def check(
        actual: Tensor, expected: Tensor, tolerance: float, name: str = '', scale: float = 0
    ) -> None:
        assert actual.shape == expected.shape, f'{name} {actual.shape} != {expected.shape}'
        difference = (actual.double() - expected.double()).abs().max().item()
        scale = scale or expected.double().abs().max().item()
        error = difference / scale if scale else difference
        assert math.isfinite(error), f'{name} is not finite'
        assert error <= tolerance, f'{name} is off by {error:.2e}, more than {tolerance:.0e}'

    return check


@pytest.fixture(scope='session')
def golden() -> Callable[[str], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Reader of a numeric fixture: its parameters, and everything else in it."""

    def read(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        tensors = load_file(DATA / f'{name}.safetensors')
        weights = {
            key.removeprefix('param.'): value
            for key, value in tensors.items()
            if key.startswith('param.')
        }
        rest = {key: value for key, value in tensors.items() if not key.startswith('param.')}
        return weights, rest

    return read


@pytest.fixture
def use_form(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Forces the linear form or a fast one, and makes sure afterwards that it was asked for."""
    calls = []
    forced = []

    def force(form: str) -> None:
        forced.append(form)

        def choose(num_tokens: int, channels: int, kernel: str) -> bool:
            calls.append(form)
            return form == 'fast'

        monkeypatch.setattr(dispatch, 'fast_form_is_cheaper', choose)

    yield force
    assert bool(calls) == bool(forced)


@pytest.fixture(scope='session')
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Redraws all parameters so that every one of them matters, also biases and norms."""

    def redraw(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.ndim > 1:
                    fan_in = parameter[0].numel() if 'bias_table' not in name else 1
                    parameter.normal_(std=fan_in**-0.5)
                elif name.endswith('bias'):
                    parameter.normal_(std=0.5)
                else:
                    parameter.normal_(1, 0.2)
        return module

    return redraw


@pytest.fixture
def no_random_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes most of the time of building a full-size model."""
    import_module('mmlab_inline.backbones')  # otherwise a test would, when it is too late
    for name, module in list(sys.modules.items()):
        if name.startswith('mmlab_inline.') and hasattr(module, 'trunc_normal_'):
            monkeypatch.setattr(module, 'trunc_normal_', lambda *args, **kwargs: None)


@pytest.fixture(scope='session')
def build_narrow() -> Callable[..., nn.Module]:
    """Builds a backbone of any class, four stages, small enough to be quick."""
    widths = {
        'InLinePVT': {'embed_dims': (8, 16, 24, 32), 'mlp_ratios': (2, 2, 2, 2)},
        'InLineSwin': {'embed_dims': 8, 'mlp_ratios': 2},
        'L2ViT': {'embed_dims': (8, 16, 24, 32), 'mlp_ratios': 2},
    }

    def build(cls: type[nn.Module], **settings: object) -> nn.Module:
        arch = dict(widths[cls.__name__])
        arch['num_heads'] = settings.pop('num_heads', (1, 2, 4, 4))
        arch['depths'] = settings.pop('depths', (1, 2, 2, 1))
        return cls(arch, **settings)

    return build


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager]:
    """Within ``with full_disk(size)`` no file can grow beyond so many bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit

"""Only `make test-gpu` collects this folder (`__main__.py`)."""

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest
import torch

DEVICE = os.environ.get('MMLAB_INLINE_TEST_GPU')
collect_ignore_glob = [] if DEVICE else ['test_*.py']


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > float(os.environ.get('MMLAB_INLINE_TEST_GPU_DEADLINE', 'inf')):
        pytest.skip('the time is over')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Why a test failed is said at once: the run may be stopped before pytest sums up."""
    report = yield
    if report.failed:
        with open(
            os.environ.get('MMLAB_INLINE_TEST_GPU_ROWS', os.devnull) + '.failed', 'a'
        ) as file:
            file.write(f'{item.nodeid}\n{report.longreprtext}\n\n')
    return report


@pytest.fixture(scope='session')
def device() -> str:
    """``'cuda'``, or ``'cpu'`` in a rehearsal."""
    return DEVICE


@pytest.fixture(scope='session')
def on_card(device: str) -> bool:
    """Whether this is no rehearsal: sizes may be real ones."""
    return device == 'cuda'


@pytest.fixture(scope='session')
def seconds_left() -> Callable[[], float]:
    """How long the run may still take."""
    deadline = float(os.environ.get('MMLAB_INLINE_TEST_GPU_DEADLINE', 'inf'))
    return lambda: deadline - time.time()


@pytest.fixture(scope='session')
def record() -> Callable[..., None]:
    """Adds a row to one of the tables that the run ends with."""
    path = os.environ.get('MMLAB_INLINE_TEST_GPU_ROWS', os.devnull)

    def add(table: str, **cells: object) -> None:
        with open(path, 'a') as file:
            file.write(json.dumps({'table': table, 'cells': cells}) + '\n')

    return add


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """cuDNN computes float32 convolutions in tf32 otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before

"""Only `make test-gpu` collects this folder (`__main__.py`)."""

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest
import torch

DEVICE = os.environ.get('MMLAB_INLINE_TEST_GPU')
DEADLINE = float(os.environ.get('MMLAB_INLINE_TEST_GPU_DEADLINE', 'inf'))
ROWS = os.environ.get('MMLAB_INLINE_TEST_GPU_ROWS')
LATE = 'the time is over'
collect_ignore_glob = [] if DEVICE else ['test_*.py']


def pytest_configure(config: pytest.Config) -> None:
    if ROWS:
        config.pluginmanager.register(Progress())


class Progress:
    """Writes at once what pytest sums up at its end: the run may be stopped before.

    A plugin, since hooks of a conftest see its own folder's tests alone.
    """

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if os.environ.get('PYTEST_XDIST_WORKER', 'gw0') == 'gw0':  # all of them have the same
            for item in session.items:
                self.note('chosen', item.nodeid)

    def pytest_runtest_setup(self) -> None:
        if time.time() > DEADLINE:
            pytest.skip(LATE)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        report = yield
        if report.failed:
            self.note('failed', f'{item.nodeid}\n{report.longreprtext}\n')
        late = report.skipped and LATE in report.longreprtext
        if (report.when == 'call' or not report.passed) and not late:
            self.note('done', item.nodeid)
        return report

    @staticmethod
    def note(kind: str, text: str) -> None:
        with open(f'{ROWS}.{kind}', 'a') as file:
            file.write(f'{text}\n')


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
    return lambda: DEADLINE - time.time()


@pytest.fixture
def launched(on_card: bool, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of tokens that a Triton kernel has run on, beside the two of the first look."""
    found = set()
    if on_card:
        from mmlab_inline.ops import triton_kernels

        launch = triton_kernels._launch_project

        def noting(x: torch.Tensor, *args: object, **settings: object) -> torch.Tensor:
            if x.shape[1] > 2:
                found.add(x.shape[1])
            return launch(x, *args, **settings)

        monkeypatch.setattr(triton_kernels, '_launch_project', noting)
    return found


@pytest.fixture
def kernels(on_card: bool, launched: set[int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has Triton's kernels run on maps of any size, and makes sure afterwards that one has."""
    monkeypatch.setenv('MMLAB_INLINE_TRITON', '1')
    yield
    assert bool(launched) == on_card


@pytest.fixture(scope='session')
def record() -> Callable[..., None]:
    """Adds a row to one of the tables that the run ends with."""

    def add(table: str, **cells: object) -> None:
        with open(ROWS or os.devnull, 'a') as file:
            file.write(json.dumps({'table': table, 'cells': cells}) + '\n')

    return add


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """cuDNN computes float32 convolutions in tf32 otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before

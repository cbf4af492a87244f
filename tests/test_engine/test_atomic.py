import os
import resource

import pytest
from mmengine.fileio import get_file_backend

from mmlab_inline.engine.atomic import ATOMIC_BACKEND, temporary, write_atomically
from mmlab_inline.utils import UserError


@pytest.fixture
def limit_file_size():
    """Writing more than some bytes to a file fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_replaces_a_file(tmp_path):
    path = tmp_path / 'a.pth'
    for content in (b'first', b'second'):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ['a.pth']


def test_full_disk_leaves_the_old_file(tmp_path, limit_file_size):
    path = tmp_path / 'a.pth'
    write_atomically(path, b'old')
    limit_file_size(1000)
    with pytest.raises(UserError, match=r'a\.pth cannot be written: File too large') as error:
        write_atomically(path, bytes(100_000))
    limit_file_size(resource.RLIM_INFINITY)
    assert '\n' not in str(error.value)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['a.pth']


def test_new_content_is_on_the_disk_before_it_gets_the_name(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    path.write_bytes(b'old')
    steps = []

    def sync(file):
        steps.append(('sync', path.read_bytes()))
        assert temporary(path).exists() == (len(steps) == 1)

    monkeypatch.setattr(os, 'fsync', sync)
    write_atomically(path, b'new')
    assert steps == [('sync', b'old'), ('sync', b'new')]  # the content, then the folder


def test_backend_of_mmengine(tmp_path):
    backend = get_file_backend(backend_args=dict(backend=ATOMIC_BACKEND))
    backend.put(b'content', str(tmp_path / 'new' / 'a.pth'))
    assert os.listdir(tmp_path / 'new') == ['a.pth']

import os

import pytest
from mmengine.fileio import get_file_backend

from mmlab_inline.engine.atomic_backend import ATOMIC_BACKEND
from mmlab_inline.utils import UserError


def test_mmengine_writes_by_it(tmp_path, monkeypatch):
    backend = get_file_backend(backend_args=dict(backend=ATOMIC_BACKEND))
    path = tmp_path / 'new' / 'a.pth'
    backend.put(b'old', str(path))

    def fail(file):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError, match=r'No space left on device; .* continue with --resume'):
        backend.put(b'new', str(path))
    assert path.read_bytes() == b'old'
    assert os.listdir(path.parent) == ['a.pth']

import os
import signal
import subprocess
import sys

import pytest

from mmlab_inline.utils import UserError, write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / 'new/folder/file'
    write_atomically(path, b'old')
    write_atomically(str(path), b'new content')
    assert path.read_bytes() == b'new content'
    assert os.listdir(path.parent) == ['file']


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_atomically(path, b'old')

    def fail(descriptor: int) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(UserError, match='file cannot be written: No space left on device'):
        write_atomically(path, b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file']


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        write_atomically(tmp_path / 'file/inner', b'')


def test_a_kill_while_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    # The kill falls on the moment when all is written and nothing renamed.
    code = (
        'import os, signal\n'
        'from mmlab_inline.utils import write_atomically\n'
        'os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n'
        f'write_atomically({str(path)!r}, bytes(100_000))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    write_atomically(path, b'new')
    assert os.listdir(tmp_path) == ['file']

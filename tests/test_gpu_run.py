"""`make test-gpu` by itself: it ends in time, ends what it has started, and says what is left."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent / 'test_gpu'
# A process in a session of its own, as torchrun starts them, whose parent ends first.
DETACHED = """
import subprocess, sys, time
child = subprocess.Popen(
    [sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True
)
open(sys.argv[1], 'w').write(str(child.pid))
time.sleep(60)
"""


def test_stops_all_that_it_has_started(tmp_path):
    spec = importlib.util.spec_from_file_location('test_gpu_main', FOLDER / '__main__.py')
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    path = tmp_path / 'pid'
    command = [sys.executable, '-c', DETACHED, str(path)]
    assert program.run(command, dict(os.environ), time.time() + 3) == program.STOPPED
    state = Path(f'/proc/{path.read_text()}/stat')
    until = time.time() + 5
    while state.exists() and ') Z ' not in state.read_text() and time.time() < until:
        time.sleep(0.05)
    assert not state.exists() or ') Z ' in state.read_text()  # killed; its heir may not have looked


def test_time_that_is_over_is_no_failure(tmp_path):
    command = [sys.executable, FOLDER, '--device', 'cpu', '--seconds', '0']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert 'stopped or not begun: checks, figures, demonstration' in done.stdout

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(request, monkeypatch, capsys):
    """Runs the test file's ``TOOL``: exit status, what it printed, and its line of error."""

    def run(*arguments):
        path = ROOT / request.module.TOOL
        monkeypatch.setattr(sys, 'argv', [path.name, *map(str, arguments)])
        status = 0
        try:
            runpy.run_path(str(path), run_name='__main__')
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run

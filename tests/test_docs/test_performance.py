"""Every command of docs/performance.md is one that the benchmark understands."""

import re
import runpy
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'performance.md'


def test_commands(monkeypatch):
    parse_args = runpy.run_path(str(ROOT / 'tools/analysis/benchmark.py'))['parse_args']
    commands = re.findall(r'\| `((?:attention|backbone|config) ?[^`]*)` \|', PAGE.read_text())
    assert len(commands) >= 12
    for command in commands:
        monkeypatch.setattr('sys.argv', ['benchmark.py', *shlex.split(command)])
        args = parse_args()
        assert args.mode != 'config' or (ROOT / args.config).is_file()

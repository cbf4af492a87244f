"""``python -m mmlab_inline`` prints a report on the environment, to paste in a bug report."""

import sys

from .environment import report

status = 0
for line in report():
    print(line, flush=True)
    status |= line.startswith('problem:')
sys.exit(status)

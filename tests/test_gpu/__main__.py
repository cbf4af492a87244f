"""What has to be seen on a GPU: `make test-gpu`.

    python tests/test_gpu [--device cpu] [--seconds 510] [--jobs 6]

Runs the checks of this folder, the risky ones first and several at a time, then takes the figures
one at a time, then runs the demonstration, and prints all as tables for docs/performance.md.
It stops after the seconds given with what it has, and lists what is left. `--device cpu` rehearses
everything with small sizes on a machine without a GPU.
Status: 0 all passed, 1 something failed, 2 nothing ran, 3 what ran has passed, but not all ran.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OUT = Path('work_dirs/test_gpu')
MARK = 'MMLAB_INLINE_TEST_GPU_RUN'
STOPPED = 124
ON_CARD = (
    'tests/test_gpu/test_kernels.py',
    'tests/test_ops/test_triton_kernels.py',
    'tests/test_mmcv_ops/test_ops.py',
    'tests/test_gpu',
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--seconds', type=float, default=510, help='default: %(default)s')
    parser.add_argument('--jobs', default='6', help='checks at a time (default: %(default)s)')
    parser.add_argument('-k', dest='keyword', default='', help="as pytest's")
    options = parser.parse_args()
    deadline = time.time() + options.seconds
    sys.path.insert(0, str(ROOT))
    import torch

    if options.device == 'cuda' and not torch.cuda.is_available():
        print('test-gpu: torch sees no GPU here; --device cpu rehearses', file=sys.stderr)
        return 2
    OUT.mkdir(parents=True, exist_ok=True)
    rows = (OUT / 'rows.jsonl').absolute()
    failed, chosen, done = (Path(f'{rows}.{kind}') for kind in ('failed', 'chosen', 'done'))
    for path in (rows, failed, chosen, done):
        path.write_text('')
    environment = {
        **os.environ,
        'MMLAB_INLINE_TEST_GPU': options.device,
        'MMLAB_INLINE_TEST_GPU_ROWS': str(rows),
        'MMLAB_INLINE_TEST_GPU_DEADLINE': str(deadline),
        'PYTHONPATH': os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
    }
    demo = f'{ON_CARD[-1]}/test_tools.py::test_demo'
    checks = [*ON_CARD, '--deselect', demo, '-m', 'not figures and not long', '-n', options.jobs]
    # Of the CPU, in Triton's interpreter.
    checks += ['--deselect', f'{ON_CARD[1]}::test_in_interpreter']
    parts = {
        'checks': checks,
        'figures': [ON_CARD[-1], '-m', 'figures', '-n', '0'],
        'demonstration': [demo, '-n', '0'],
    }
    codes = {}
    for name, part in parts.items():
        command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *part]
        command += ['-k', options.keyword, '--durations', '8', '-rfE']
        late = time.time() > deadline
        codes[name] = STOPPED if late else run(command, environment, deadline)
    stopped = [name for name, code in codes.items() if code == STOPPED]
    print(failed.read_text() if stopped else '', end='')
    print(machine(torch, options.device))
    print_tables([json.loads(line) for line in rows.read_text().splitlines()])
    left = set(chosen.read_text().splitlines()) - set(done.read_text().splitlines())
    if stopped or left:
        print(f'\ntest-gpu: the time is over; stopped or not begun: {", ".join(stopped) or "-"}')
        for name, number in sorted(Counter(name.partition('[')[0] for name in left).items()):
            print(f'{number:4} {name}')
    # 5: a keyword chose none of a part.
    if failed.read_text() or set(codes.values()) - {0, 5, STOPPED}:
        return 1
    return 3 if stopped or left else 0


def run(command: list[str], environment: dict[str, str], deadline: float) -> int:
    """Run pytest until the deadline; its status, STOPPED where that came first."""
    environment = {**environment, MARK: str(time.time_ns())}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        return process.wait(max(deadline - time.time(), 0.1))
    except subprocess.TimeoutExpired:
        print('\ntest-gpu: stopped, the time is over; what follows is what there is', flush=True)
        return STOPPED
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # torchrun's processes have sessions of their own, but the environment.
        mark = f'{MARK}={environment[MARK]}'.encode()
        for path in Path('/proc').glob('[0-9]*/environ'):
            with contextlib.suppress(OSError):  # it is gone, or another user's
                if mark in path.read_bytes().split(b'\0'):
                    os.kill(int(path.parent.name), signal.SIGKILL)


def machine(torch: object, device: str) -> str:
    name = torch.cuda.get_device_name() if device == 'cuda' else 'CPU (a rehearsal)'
    return f'\n{name}, PyTorch {torch.__version__}, {time.strftime("%Y-%m-%d", time.gmtime())}'


def print_tables(rows: list[dict[str, object]]) -> None:
    """Markdown, a table for each title; columns in the order of their first use."""
    for title, group in itertools.groupby(
        sorted(rows, key=lambda row: row['table']), lambda row: row['table']
    ):
        lines = [row['cells'] for row in group]
        columns = list(dict.fromkeys(name for cells in lines for name in cells))
        print(f'\n### {title}\n\n| {" | ".join(columns)} |')
        print('|' + '---|' * len(columns))
        for cells in lines:
            print(f'| {" | ".join(str(cells.get(name, "")) for name in columns)} |')


if __name__ == '__main__':
    sys.exit(main())

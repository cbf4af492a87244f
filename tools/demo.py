"""The whole way in minutes: draw data, train a detector and a segmentor, evaluate, look at them.

    python tools/demo.py [--quick]

Draws the embedded shapes, trains Mask R-CNN on a small InLine-PVT (with --amp where that is faster
on the CPU) and Semantic FPN on a small InLine-Swin side by side, each by tools/train.py, evaluates
both by tools/test.py, and leaves summary.json, loss_curves.png, predictions.png, a report of each
model and all pictures under work_dirs/demo/.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.datasets.demo import FOLDER, write_demo_dataset
from mmlab_inline.utils import UserError, exit_on_user_error

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Task:
    """One model to train and test.

    Attributes:
        name: Folder below work_dirs/demo.
        title: What it is called in print.
        config: Config file.
        quick_options: ``--cfg-options`` that make it a smoke run of seconds.
        num_steps: Training iterations; the progress bar's length.
        metrics: Key in summary.json to (metric of tools/test.py, its scale to 0..1).
        amp: Whether it trains in mixed precision where that is faster on the CPU: what the other
            waits for.
    """

    name: str
    title: str
    config: Path
    quick_options: tuple[str, ...]
    num_steps: int
    metrics: dict[str, tuple[str, float]]
    amp: bool = False

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


TASKS = (
    Task(
        name='detection',
        title='Mask R-CNN, InLine-PVT',
        config=ROOT / 'configs/demo/mask-rcnn_inline-pvt-demo_shapes.py',
        quick_options=(
            'train_cfg.max_epochs=1',
            'train_cfg.val_interval=1',
            'train_dataloader.dataset.indices=32',
            'default_hooks.logger.interval=1',
            'default_hooks.checkpoint.interval=1',
        ),
        num_steps=900,
        metrics={'box_ap': ('coco/bbox_mAP', 1.0), 'mask_ap': ('coco/segm_mAP', 1.0)},
        amp=True,
    ),
    Task(
        name='segmentation',
        title='Semantic FPN, InLine-Swin',
        config=ROOT / 'configs/demo/sem-fpn_inline-swin-demo_shapes.py',
        quick_options=(
            'train_cfg.max_iters=4',
            'train_cfg.val_interval=4',
            'default_hooks.logger.interval=1',
            'default_hooks.checkpoint.interval=4',
        ),
        num_steps=1500,
        metrics={'miou': ('mIoU', 1.0)},
    ),
)


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--quick',
        action='store_true',
        help='a smoke run of 4 iterations each on 120 drawings; its figures mean nothing',
    )
    args = parser.parse_args()
    import matplotlib
    import torch

    matplotlib.use('Agg')
    console = Console(highlight=False)
    start = time.time()

    num_train, num_val = (100, 20) if args.quick else (1200, 120)
    console.print(f'Drawing {num_train} + {num_val} pictures of shapes')
    with exit_on_user_error():
        write_demo_dataset(num_train, num_val)

    where = 'the GPU' if torch.cuda.is_available() else f'{os.cpu_count()} CPU cores'
    console.print(f'Training and testing on {where}; logs are in {FOLDER}/*/log.txt')
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        TextColumn('{task.completed:.0f}/{task.total:.0f} iterations'),
        TimeElapsedColumn(),
        TextColumn('left'),
        TimeRemainingColumn(),
        TextColumn('{task.fields[state]}'),
    )
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor() as pool:
        runs = [pool.submit(run_task, task, args.quick, progress) for task in TASKS]
    summary = {}
    for run in runs:
        summary |= run.result()
    draw_loss_curves(FOLDER / 'loss_curves.png')
    draw_predictions(FOLDER / 'predictions.png')
    summary['seconds'] = round(time.time() - start)
    (FOLDER / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')

    table = Table('metric', 'value', title=f'{num_val} held-out drawings')
    table.add_row('box AP', f'{summary["box_ap"]:.3f}')
    table.add_row('mask AP', f'{summary["mask_ap"]:.3f}')
    table.add_row('mIoU, %', f'{summary["miou"]:.1f}')
    console.print(table)
    console.print(f'{summary["seconds"]} seconds. Look at {FOLDER}/predictions.png,')
    console.print(f'{FOLDER}/loss_curves.png, the reports {FOLDER}/*/report.html')
    console.print(f'and all pictures in {FOLDER}/*/pictures/.')


def run_task(task: Task, quick: bool, progress: Progress) -> dict[str, float]:
    """Train and test one model by the tools; its metrics."""
    from mmlab_inline.report import read_record

    bar = progress.add_task(
        f'{task.title:<26}', total=4 if quick else task.num_steps, state='training'
    )
    options = ['--cfg-options', *task.quick_options] if quick else []
    if task.amp:
        options += amp()
    task.folder.mkdir(parents=True, exist_ok=True)
    log = task.folder / 'log.txt'
    log.write_text('')
    for old in task.folder.glob('2*/vis_data/scalars.json'):
        old.unlink()  # the curves show this run, not the ones before
    train = start_tool('train.py', task, log, '--overwrite', '--seed', '0', *options)
    while train.poll() is None:
        time.sleep(1)
        history = read_record(task.folder).train
        if history:
            progress.update(bar, completed=history[-1]['step'])
    check(train, log)
    checkpoint = (task.folder / 'last_checkpoint').read_text()
    progress.update(bar, completed=progress.tasks[bar].total, state='testing')
    pictures = ['--show-dir', str(task.folder / 'pictures')]
    test = start_tool('test.py', task, log, checkpoint, *pictures)
    test.wait()
    check(test, log)
    progress.update(bar, state='done')
    metrics = json.loads((task.folder / 'metrics.json').read_text())
    # mmdet reports no AP at all where nothing was found.
    return {name: metrics.get(key, 0.0) * scale for name, (key, scale) in task.metrics.items()}


def amp() -> list[str]:
    """The option for mixed precision, where that is faster on the CPU."""
    import mmcv.ops  # noqa: F401 - of which check_amp asks who serves them
    from mmengine.device import get_device

    from mmlab_inline.runs import check_amp, has_bfloat16_instructions

    with suppress(UserError):
        check_amp('cpu', 'mmdet')
        return ['--amp'] if get_device() == 'cpu' and has_bfloat16_instructions() else []
    return []


def start_tool(tool: str, task: Task, log: Path, *arguments: str) -> subprocess.Popen:
    """Start a tool with its output appended to the task's log."""
    # The two models share the cores; more threads than cores would wait for each other.
    threads = max(1, (os.cpu_count() or 1) // len(TASKS))
    command = [sys.executable, str(ROOT / 'tools' / tool), str(task.config), *arguments]
    with log.open('a') as stream:
        return subprocess.Popen(
            [*command, '--work-dir', str(task.folder)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={'OMP_NUM_THREADS': str(threads), **os.environ},
        )


def check(process: subprocess.Popen, log: Path) -> None:
    """Stop the demo with the end of the log if a tool failed."""
    if process.returncode:
        tail = '\n'.join(log.read_text().splitlines()[-15:])
        raise SystemExit(f'{tail}\nerror: a tool failed; its whole log is {log}')


def draw_loss_curves(path: Path) -> None:
    """One panel per model: the losses over iterations."""
    import matplotlib.pyplot as plt

    from mmlab_inline.report import plot_losses, read_record

    figure, axes = plt.subplots(1, len(TASKS), figsize=(11, 4), layout='constrained')
    for task, axis in zip(TASKS, axes, strict=True):
        plot_losses(axis, read_record(task.folder), task.title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_predictions(path: Path, per_task: int = 4) -> None:
    """A sheet of a few pictures: drawn truth on the left of each, prediction on the right."""
    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    figure, axes = plt.subplots(
        per_task, len(TASKS), figsize=(11, 2.7 * per_task), layout='constrained'
    )
    for column, task in zip(axes.T, TASKS, strict=True):
        files = sorted((task.folder / 'pictures').rglob('*.[jp][pn]g'))[:per_task]
        for axis, file in zip(column, files, strict=False):
            axis.imshow(np.asarray(Image.open(file)))
        for axis in column:
            axis.axis('off')
        column[0].set_title(f'{task.title}\ntruth | prediction')
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == '__main__':
    main()

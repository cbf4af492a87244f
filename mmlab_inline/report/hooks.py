"""What a run leaves without being asked: its curves, and a report of every evaluation."""

import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from ..utils import UserError, counted, one_line, write_atomically
from .cost import Stopwatch, model_cost
from .curves import draw_curves
from .detection import DetectionCollector
from .figures import to_png
from .record import read_record
from .run_report import RunReport
from .segmentation import SegmentationCollector

# Where tools/test.py says what it evaluates.
EVALUATED = 'evaluated_checkpoint'


@HOOKS.register_module()
class CurvesHook(Hook):
    """Draws ``curves.png`` in the work folder after every evaluation and at the end of training.

    What cannot be drawn or written costs a line of warning, never the run.

    Args:
        enabled: Whether to do anything.
    """

    priority = 'VERY_LOW'  # after the logger

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw what has been trained so far."""
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the whole run."""
        self._draw(runner)

    @master_only
    def _draw(self, runner: Runner) -> None:
        if not self._enabled:
            return
        try:
            record = read_record(runner.work_dir)
            if record.train:
                picture = to_png(draw_curves(record))
                write_atomically(Path(runner.work_dir, 'curves.png'), picture)
        except Exception as error:
            runner.logger.warning(f'curves.png is not drawn: {_reason(error)}')


@HOOKS.register_module()
class ReportHook(Hook):
    """Writes ``report.html`` and ``report.json`` into the work folder after every evaluation.

    Knows the evaluations of mmdet's CocoMetric and mmseg's IoUMetric; the report of another has
    metrics, cost, training curves and config only. What fails costs a line of warning, never the
    metrics or the run. Only the first of several processes writes.

    Args:
        enabled: Whether to do anything.
        num_pictures: How many of the best and of the worst images to draw.
        score_thr: Lowest score of the objects in confusions, scores of images and pictures.
    """

    priority = 'LOWEST'  # after the logger and the checkpoint

    def __init__(self, enabled: bool = True, num_pictures: int = 4, score_thr: float = 0.3) -> None:
        self._enabled = enabled
        self._num_pictures = num_pictures
        self._score_thr = score_thr
        self._cost: dict[str, object] | None = None

    def before_val_epoch(self, runner: Runner) -> None:
        """Start to collect."""
        self._start(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        """Start to collect."""
        self._start(runner, runner.test_loop)

    def before_val_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """The data of a batch have come."""
        self._stopwatch.start()

    before_test_iter = before_val_iter

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Collect what a batch shows."""
        if not self._enabled or self._error is not None:
            return
        try:
            self._stopwatch.stop(len(outputs))
            if self._collector is not None:
                self._collector.add(outputs)
            self._stopwatch.leave_out()
        except Exception as error:
            self._error = _reason(error)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the report."""
        where = f'after {runner.iter} iterations of training in {Path(runner.work_dir).name}'
        self._finish(runner, runner.val_loop, metrics, where)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the report."""
        checkpoint = runner.message_hub.get_info(EVALUATED)
        self._finish(runner, runner.test_loop, metrics, checkpoint and f'checkpoint {checkpoint}')

    def _start(self, runner: Runner, loop: object) -> None:
        self._error: str | None = None
        self._collector = None
        self._stopwatch = Stopwatch()
        if not self._enabled:
            return
        try:
            self._collector = self._build_collector(loop, runner.cfg.get('default_scope'))
        except Exception as error:
            self._error = _reason(error)

    def _build_collector(
        self, loop: object, scope: str
    ) -> DetectionCollector | SegmentationCollector | None:
        evaluator, dataset = loop.evaluator, loop.dataloader.dataset
        if not isinstance(evaluator, Evaluator):
            return None
        if scope == 'mmdet' and DetectionCollector.fits(evaluator):
            return DetectionCollector(evaluator, dataset, self._num_pictures, self._score_thr)
        if scope == 'mmseg' and SegmentationCollector.fits(evaluator):
            return SegmentationCollector(evaluator, len(dataset), self._num_pictures)
        return None

    def _finish(
        self, runner: Runner, loop: object, metrics: dict[str, float] | None, where: str | None
    ) -> None:
        if not self._enabled:
            return
        # Processes wait for each other here, so nothing may keep one of them away.
        self._stopwatch.gather()
        if self._collector is not None:
            self._collector.gather()
        problem = next(filter(None, all_gather_object(self._error)), None)
        if is_main_process() and problem is None:
            try:
                self._write(runner, loop, metrics or {}, where)
            except Exception as error:
                problem = _reason(error)
        if is_main_process() and problem is not None:
            runner.logger.warning(f'no report is written: {problem}')
        self._collector = None  # it holds the results of all images

    def _write(
        self, runner: Runner, loop: object, metrics: dict[str, float], where: str | None
    ) -> None:
        found = self._collector.finish() if self._collector else None
        if self._cost is None:
            self._cost = model_cost(runner.cfg)
        num_images = len(loop.dataloader.dataset)
        when = time.strftime('%Y-%m-%d %H:%M', time.gmtime())
        report = RunReport.of(
            name=Path(runner.cfg.filename or runner.experiment_name).stem,
            about=[f'{counted(num_images, "image")}, {when} UTC', *([where] if where else [])],
            metrics=metrics,
            cost={**self._cost, **self._stopwatch.speed(getattr(loop, 'fp16', False))},
            cfg=runner.cfg,
            found=found,
        )
        report.write(Path(runner.work_dir), found, runner.cfg.pretty_text)
        runner.logger.info(f'The report is {Path(runner.work_dir, "report.html")}')


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else one_line(error)

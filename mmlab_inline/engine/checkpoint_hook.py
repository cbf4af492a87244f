"""Checkpoints that survive whatever ends the run."""

import operator
from pathlib import Path

from mmengine.dist import get_world_size, is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..registry import HOOKS
from ..runs import INTERRUPTED, LAST_CHECKPOINT
from ..utils import did_you_mean, write_atomically
from .atomic_backend import ATOMIC_BACKEND
from .model import unwrapped_model


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, made safe against kills at any moment and full disks.

    - Checkpoints, best checkpoints and ``last_checkpoint`` are written by :func:`write_atomically`.
    - Old ones are deleted only after the new one is safely there (mmengine deletes first).
    - A checkpoint of a state that has been evaluated is written again after the evaluation, so
      that a resumed run knows whether the evaluation is still due.
    - Inside an accumulation (``accumulative_counts``) the gradients so far are saved too, in one
      process.
    - Of equal scores the later one is the best.
    - The best checkpoint of another run that this one continues from is left where it is.

    Takes the arguments of mmengine's hook. A folder elsewhere (``s3://...``) is written by its own
    backend, as it is there.
    """

    # Among equal scores the later one is the best: it has learnt for longer.
    rule_map = {'greater': operator.ge, 'less': operator.le}
    _saved: tuple[int | None, int | None] = (None, None)

    def before_train(self, runner: Runner) -> None:
        """Choose the backend and clear what a killed writer has left."""
        folder = str(self.out_dir or runner.work_dir)
        if self.backend_args is None and '://' not in folder:
            self.backend_args = dict(backend=ATOMIC_BACKEND)
        super().before_train(runner)
        if is_main_process():
            for place in {Path(runner.work_dir), Path(self.out_dir)}:
                for part in place.glob('.*.part'):
                    part.unlink()
        # Iteration of the last state on disk, and of the evaluation that it knows of.
        self._saved = runner.iter, runner.message_hub.get_info('validated_iter')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best, and what the evaluation has changed in the state of the run."""
        runner.message_hub.update_info('validated_iter', runner.iter)
        super().after_val_epoch(runner, metrics)  # with a new best it saves the state again
        saved, validated = self._saved
        if saved == runner.iter != validated:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(runner, step, meta)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the gradients of an accumulation that is under way; otherwise there are none."""
        if 'optimizer' in checkpoint and get_world_size() == 1:
            checkpoint['gradients'] = {
                name: parameter.grad.cpu()
                for name, parameter in unwrapped_model(runner).named_parameters()
                if parameter.grad is not None
            }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Continue an accumulation."""
        if runner._resume and get_world_size() == 1:
            parameters = dict(unwrapped_model(runner).named_parameters())
            for name, gradient in checkpoint.get('gradients', {}).items():
                parameters[name].grad = gradient.to(parameters[name].device)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        hub = runner.message_hub
        # The saved list names the outdated ones too, so that a run killed before it could delete
        # them does so when it is resumed (by mmengine's before_train).
        kept = list(hub.get_info('keep_ckpt_ids', []))
        if self.max_keep_ckpts > 0 and kept[-1:] != [step]:
            kept.append(step)
        hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        self._saved = meta['iter'], hub.get_info('validated_iter')
        if not is_main_process():
            return
        _set_last_checkpoint(runner, self.last_ckpt)
        Path(runner.work_dir, INTERRUPTED).unlink(missing_ok=True)
        while len(kept) > self.max_keep_ckpts > 0:
            outdated = self.filename_tmpl.format(kept.pop(0))
            self._remove(self.file_backend.join_path(self.out_dir, outdated))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        missing = [key for key in self.best_by()[0] if key not in ('auto', *metrics)]
        if missing:
            # Hours of training are worth more than this; mmdet gives no AP where nothing is found.
            runner.logger.warning(
                f'This evaluation gives no {missing[0]!r}{did_you_mean(missing[0], metrics)}: its '
                'state is not compared with the best checkpoint'
            )
            return
        # mmengine removes the previous best before it writes the new one; here the removal waits.
        removed: list[str] = []
        self.file_backend.remove = removed.append
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            del self.file_backend.remove
        info = runner.message_hub.runtime_info
        best = {path for key, path in info.items() if key.startswith('best_ckpt')}
        for path in set(removed) - best:
            if Path(path).parent == Path(self.out_dir):
                self._remove(path)

    def best_by(self) -> tuple[list[str], list[str]]:
        """Metrics that tell the best, and whether the ``'greater'`` or the ``'less'`` is better."""
        return (self.key_indicators, self.rules) if self.save_best else ([], [])

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # sharded ones are folders
            self.file_backend.rmtree(path)


def save_interrupted(runner: Runner, iteration: int) -> Path:
    """Save the state of a run that stops between its regular checkpoints, as interrupted.pth.

    The next regular checkpoint replaces it. Call it in all processes.

    Args:
        runner: The runner.
        iteration: Number of iterations done.

    Returns:
        The file, in the work folder.
    """
    meta = dict(epoch=runner.epoch, iter=iteration)
    path = Path(runner.work_dir, INTERRUPTED)
    backend_args = dict(backend=ATOMIC_BACKEND)
    runner.save_checkpoint(
        str(path.parent), path.name, meta=meta, by_epoch=False, backend_args=backend_args
    )
    _set_last_checkpoint(runner, str(path))
    return path


def best_checkpoints(runner: Runner) -> tuple[list[tuple[str, float, str]], list[str]]:
    """What a run found best.

    Returns:
        Metric, score and file of each best checkpoint, and lines on those that mean nothing.
    """
    info = runner.message_hub.runtime_info
    hooks = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
    found, notes = [], []
    for hook in hooks:
        for metric, rule in zip(*hook.best_by(), strict=True):
            suffix = '' if len(hook.key_indicators) == 1 else f'_{metric}'
            score, path = (info.get(f'best_{what}{suffix}') for what in ('score', 'ckpt'))
            if score is None or path is None:
                continue
            if rule == 'greater' and score <= 0:
                notes.append(f'No checkpoint is the best: {metric} was never above {score:.4g}.')
            else:
                found.append((metric, float(score), path))
    return found, notes


@master_only
def _set_last_checkpoint(runner: Runner, path: str) -> None:
    write_atomically(Path(runner.work_dir, LAST_CHECKPOINT), path.encode())

"""Training loops that continue a stopped run exactly where it was."""

from collections.abc import Iterator

from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..registry import LOOPS
from ..runs.seeding import NumberedBatches, seed_everything


class _ResumableLoop:
    """What the two loops share.

    Every iteration starts from random numbers that follow from the run's seed, the rank and the
    number of the iteration. A resumed run skips what has been trained, without loading its data,
    and makes up for an evaluation that was cut off.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, **settings: object) -> None:
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed)
        self._batches = NumberedBatches(dataloader)
        super().__init__(runner, dataloader, **settings)

    def run_iter(self, *args: object) -> None:
        """Train one iteration from its own random numbers."""
        seed_everything(*self._seed_and_rank(), self._iter)
        super().run_iter(*args)

    def _seed_and_rank(self) -> tuple[int, int]:
        # Only here and not when the loop is built is the seed of a resumed run known.
        rank = get_rank()
        differ = self.runner._randomness_cfg.get('diff_rank_seed', False)
        return self.runner.seed - (rank if differ else 0), rank

    def _validate(self, done: int, whole: int) -> None:
        """Evaluate after ``done`` of ``whole`` epochs or iterations if that is due."""
        self._decide_current_val_interval()
        is_due = done >= self.val_begin and (done % self.val_interval == 0 or done == whole)
        validated = self.runner.message_hub.get_info('validated_iter')
        if self.runner.val_loop is not None and is_due and validated != self._iter:
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(_ResumableLoop, EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, resumable at any iteration. Takes its arguments."""

    def run(self) -> nn.Module:
        """Train all epochs, or what is left of them."""
        self.runner.call_hook('before_train')
        done = self._batches_done()
        if self._epoch > 0 and done == 0:
            self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch(done)
            done = 0
            self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self, done: int = 0) -> None:
        """Train an epoch from its batch number ``done`` on."""
        start = self._epoch, self._iter - done, len(self.dataloader)
        self.runner.message_hub.update_info('epoch_start', start)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._batches.start(*self._seed_and_rank(), self._iter, skip=done)
        for idx, data_batch in enumerate(self.dataloader, done):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self) -> int:
        """Batches of the current epoch that were trained before the run was stopped."""
        epoch, first_iter, length = self.runner.message_hub.get_info('epoch_start', (0, 0, 0))
        if self._iter == 0 or epoch != self._epoch:
            return 0
        if length != len(self.dataloader):
            self.runner.logger.warning(
                f'The run was stopped in an epoch of {length} batches, now there are '
                f'{len(self.dataloader)}: it continues from the start of that epoch.'
            )
            return 0
        return self._iter - first_iter


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop, resumable at any iteration. Takes its arguments.

    Skipping costs the time to draw the skipped indices; no data are read.
    """

    def run(self) -> nn.Module:
        """Train all iterations, or what is left of them."""
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._batches.start(*self._seed_and_rank(), self._iter, skip=self._iter, endless=True)
        if self._iter > 0:
            self._validate(self._iter, self._max_iters)
        if self._iter < self._max_iters:
            self._train(iter(self.dataloader))
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def _train(self, batches: Iterator) -> None:
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._validate(self._iter, self._max_iters)

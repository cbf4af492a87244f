"""TensorBoard's scalars of a run, in one folder over all the times it was resumed."""

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import master_only
from mmengine.logging import print_log
from mmengine.visualization import BaseVisBackend

from ..registry import VISBACKENDS


@VISBACKENDS.register_module()
class TensorBoardScalars(BaseVisBackend):
    """Writes scalars, and nothing else, to ``tensorboard/`` in the work folder.

    mmengine's own backend writes to a new folder at every start, which shows a resumed run as
    several, imports TensorBoard for an evaluation too, and cannot do without it. Here TensorBoard
    is imported with the first scalar; where it is not installed, a line says so and the run goes
    on.

    Args:
        save_dir: Where mmengine's backends write, two folders below the work folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self._writer = None
        self._is_missing = False

    @property
    def experiment(self) -> object:
        """TensorBoard's writer; None before the first scalar."""
        return self._writer

    def _init_env(self) -> None:
        """The writer comes with the first scalar."""

    @master_only
    def add_scalar(self, name: str, value: float, step: int = 0, **kwargs: object) -> None:
        """Write a value of one quantity."""
        self.add_scalars({name: value}, step)

    @master_only
    def add_scalars(
        self,
        scalar_dict: dict[str, float],
        step: int = 0,
        file_path: str | None = None,
        **kwargs: object,
    ) -> None:
        """Write values of several quantities."""
        if self._writer is None and not self._is_missing:
            self._open(step)
        if self._writer is not None:
            for name, value in scalar_dict.items():
                self._writer.add_scalar(name, value, step)

    def add_config(self, config: Config, **kwargs: object) -> None:
        """No scalar."""

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._is_missing = True
            print_log(
                'TensorBoard is not installed, so there are no scalars for it: '
                'pip install tensorboard',
                logger='current',
            )
            return
        # What a run that was stopped had written from here on is void.
        folder = Path(self._save_dir).parent.parent / 'tensorboard'
        self._writer = SummaryWriter(str(folder), purge_step=step)

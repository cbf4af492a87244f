"""mmengine's loading of checkpoints, without running code from them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from ..utils import CheckpointError, load_checkpoint

_mmengines_load = CheckpointLoader.load_checkpoint.__func__


def use_safe_loading() -> None:
    """Let this process read every checkpoint by the allow-list of :func:`load_checkpoint`.

    Whoever asks mmengine, mmdet or mmseg for one (resume, ``load_from``, ``init_cfg``, inference,
    hooks) ends in ``CheckpointLoader.load_checkpoint``, which of itself falls back to full
    unpickling. Safetensors files are read as well.
    """
    CheckpointLoader.load_checkpoint = classmethod(_load)


def _load(
    cls: type,
    filename: str,
    map_location: str | Callable | None = None,
    logger: object = 'current',
) -> dict:
    """Fetch a checkpoint as its scheme asks for (file, https, torchvision, ...) and read it.

    Raises:
        UnsafeCheckpointError: It needs a type that is not known to be harmless.
        CheckpointError: It is none, or torn.
    """
    with _torch_load_replaced():
        return _mmengines_load(cls, filename, map_location, logger)


@contextmanager
def _torch_load_replaced() -> Iterator[None]:
    original = torch.load
    torch.load = _load_file  # where all schemes end, in every version of mmengine
    try:
        yield
    finally:
        torch.load = original


def _load_file(
    file: object, map_location: str | Callable | None = None, **settings: object
) -> dict:
    if not isinstance(file, str | os.PathLike):
        raise CheckpointError('checkpoints in such a place are not read; copy it to a file first')
    return load_checkpoint(file, map_location or 'cpu')

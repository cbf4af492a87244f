"""What a model costs: its parameters and FLOPs, and the speed at which it was evaluated."""

import time

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object

from ..analysis.benchmark import Device, describe, machine
from ..analysis.flops import DEFAULT_SHAPES, count_config
from ..utils import UserError


def model_cost(cfg: Config) -> dict[str, object]:
    """Parameters and FLOPs as published tables count them, or in ``reason`` why not."""
    if 'module' in (cfg.get('model') or {}):  # within test-time augmentation
        cfg = Config({**cfg.to_dict(), 'model': cfg.model.module})
    try:
        total = count_config(cfg)['']
    except UserError as error:
        return {'reason': str(error)}
    return {
        'params': total.params,
        'flops': total.flops,
        'shape': DEFAULT_SHAPES[cfg.default_scope],
    }


class Stopwatch:
    """Measures an evaluation while it runs, from one batch to the next.

    A batch's time is that of model, post-processing and metric, at the end of which its results are
    on the CPU. The first batch warms up and does not count, unless it is the only one.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[int, float, float]] = []  # images, seconds waited and busy
        self._last = time.perf_counter()

    def start(self) -> None:
        """A batch has been loaded."""
        self._start = time.perf_counter()

    def stop(self, num_images: int) -> None:
        """Its results are there."""
        now = time.perf_counter()
        self._batches.append((num_images, self._start - self._last, now - self._start))
        self._last = now

    def leave_out(self) -> None:
        """What was done since :meth:`stop` is no part of the evaluation."""
        self._last = time.perf_counter()

    def gather(self) -> None:
        """Add up several processes; all of them have to call this."""
        counted = self._batches[1:] or self._batches
        images, waited, busy = map(sum, zip(*counted, strict=True)) if counted else (0, 0.0, 0.0)
        first = counted[0][0] if counted else 0
        self._parts = all_gather_object((images, waited, busy, first))

    def speed(self, half: bool) -> dict[str, object]:
        """Images per second of all processes together, and where that was.

        Args:
            half: Whether it ran in mixed precision.
        """
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        precision = {'cuda': 'fp16', 'cpu': 'bf16'}[device] if half else None
        parts = [part for part in self._parts if part[2] > 0]
        out = {
            'images_per_second': sum(images / busy for images, _, busy, _ in parts),
            'images_per_second_with_loading': sum(
                images / (waited + busy) for images, waited, busy, _ in parts
            ),
            'batch': max((first for *_, first in parts), default=0),
            'processes': len(self._parts),
            'machine': describe(machine(Device(device, precision))),
        }
        if device == 'cuda':
            out['peak_memory_mib'] = round(torch.cuda.max_memory_allocated() / 2**20)
        return out

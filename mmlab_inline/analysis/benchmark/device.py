"""Where a benchmark runs: autocast, synchronisation, peak memory, and the machine's name."""

import os
import platform
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import torch

from ...choices import AMP_DTYPES
from ...utils import UserError
from ...version import __version__

T = TypeVar('T')


@dataclass(frozen=True)
class Device:
    """A device, and the precision that is computed in.

    Attributes:
        type: ``'cpu'`` or ``'cuda'``.
        amp: Name in :data:`~mmlab_inline.choices.AMP_DTYPES` of autocast, None for float32.
    """

    type: str = 'cpu'
    amp: str | None = None

    @classmethod
    def asked_for(cls, name: str | None, amp: str | None) -> 'Device':
        """The device of ``--device`` and ``--amp``; without a name a GPU if there is one.

        Raises:
            UserError: There is no GPU, or it does not compute in this precision: older ones have no
                bfloat16.
        """
        has_gpu = torch.cuda.is_available()
        if name == 'cuda' and not has_gpu:
            raise UserError('--device cuda: torch sees no GPU; leave it out or take cpu')
        device = cls(name or ('cuda' if has_gpu else 'cpu'), amp)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                with device.autocast():
                    pass
        except RuntimeError:
            raise UserError(
                f'--amp {amp}: the GPU has no {amp}; take another dtype or leave it out'
            ) from None
        return device

    def autocast(self) -> AbstractContextManager:
        """Context of forward passes."""
        if not self.amp:
            return nullcontext()
        return torch.autocast(self.type, getattr(torch, AMP_DTYPES[self.amp]))

    def seconds(self, run: Callable[[], object], calls: int) -> float:
        """Mean time of one of several calls, with the device idle before and after."""
        self._synchronise()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        self._synchronise()
        return (time.perf_counter() - start) / calls

    def weigh(self, run: Callable[[], object]) -> tuple[float, int | None]:
        """Seconds of one call, and on a GPU the most memory that it takes beside what is there."""
        if self.type == 'cpu':
            return self.seconds(run, 1), None
        self._synchronise()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = self.seconds(run, 1)
        return seconds, torch.cuda.max_memory_allocated() - before

    def captured(self, run: Callable[[], T]) -> tuple[Callable[[], T], int]:
        """A call as a CUDA graph.

        Args:
            run: Warms up in three calls, and is captured in the fourth.

        Returns:
            Replays the graph, always into the same outputs; and the memory that the graph keeps
            for itself beside what was there.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with patch.dict(os.environ, MMLAB_INLINE_TRITON='1'):  # launches are free in a graph
            with torch.cuda.stream(stream):
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            with torch.cuda.graph(graph):
                outs = run()
        peak = torch.cuda.max_memory_allocated() - before

        def replay() -> T:
            graph.replay()
            return outs

        return replay, peak

    def _synchronise(self) -> None:
        if self.type == 'cuda':
            torch.cuda.synchronize()


def machine(device: Device) -> dict[str, object]:
    """What a figure depends on beside the code: processors, threads, versions, date (UTC)."""
    return {
        'cpu': _cpu_name(),
        'gpu': torch.cuda.get_device_name() if device.type == 'cuda' else None,
        'threads': torch.get_num_threads(),
        'precision': f'{device.amp} autocast' if device.amp else 'float32',
        'torch': torch.__version__,
        'mmlab_inline': __version__,
        'date': time.strftime('%Y-%m-%d %H:%M', time.gmtime()),
    }


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.is_file() else ():
        key, _, value = line.partition(':')
        if key.strip() == 'model name':
            return value.strip()
    return platform.processor() or platform.machine()

"""Random numbers and data order as functions of the seed and the iteration, and of nothing else.

Neither the number of workers nor what has been drawn before matters, so that a resumed run needs
no random state from the one that was stopped, in none of its processes.
"""

import itertools
import os
import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset


def seed_everything(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, those of the GPUs included."""
    seeds = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1])
    torch.manual_seed(int(seeds[2]))


def prefer_deterministic_algorithms() -> None:
    """Take deterministic algorithms where torch has them, and let it warn where it has none.

    mmengine's setting raises there, and on a GPU that is in the loss of every segmentor.
    """
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when CUDA starts
    torch.use_deterministic_algorithms(True, warn_only=True)


class NumberedBatches(BatchSampler):
    """Batches of another batch sampler that carry the seeds of their samples.

    An item of a batch is an index with the numbers to seed by before that sample is loaded: seed
    and rank of the run, iteration, place in the batch.

    Args:
        loader: The loader, before its first use. It is changed so that it loads by these batches.
    """

    _seed = _rank = _iteration = _skip = 0
    _endless = False

    def __init__(self, loader: DataLoader) -> None:
        batches = loader.batch_sampler
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)
        self._batches = batches
        # A loader forbids to change its batches because it may be running; here it is not yet.
        object.__setattr__(loader, 'batch_sampler', self)
        # torch asks a dataset for a whole batch by this name.
        loader.dataset.__getitems__ = partial(_load_seeded, loader.dataset)

    def start(self, seed: int, rank: int, iteration: int, skip: int, endless: bool = False) -> None:
        """Set what the next pass over the loader yields.

        Args:
            seed: Seed of the run; the order of the data follows it too.
            rank: Rank of this process.
            iteration: Number of the first batch, counted over the whole run.
            skip: Batches to leave out, without loading their data.
            endless: Go on with the next epoch where the sampler ends.
        """
        self._seed, self._rank, self._iteration = seed, rank, iteration
        self._skip, self._endless = skip, endless
        if hasattr(self.sampler, 'seed'):
            self.sampler.seed = seed

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        batches = self._epochs() if self._endless else iter(self._batches)
        batches = itertools.islice(batches, self._skip, None)
        for iteration, batch in enumerate(batches, self._iteration):
            # Places count from 1 because a seed sequence takes trailing zeros for nothing.
            yield [
                (index, self._seed, self._rank, iteration, place)
                for place, index in enumerate(batch, 1)
            ]

    def __len__(self) -> int:
        return len(self._batches)

    def _epochs(self) -> Iterator[list[int]]:
        if hasattr(self.sampler, '_indices_of_rank'):
            # mmengine's InfiniteSampler holds one stream for life; a pass starts a new one.
            self.sampler.indices = self.sampler._indices_of_rank()
        for epoch in itertools.count():
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            yield from self._batches


def _load_seeded(dataset: Dataset, batch: list[tuple[int, ...]]) -> list[object]:
    """Load the samples of a batch, each after seeding by its numbers."""
    samples = []
    for index, *numbers in batch:
        seed_everything(*numbers)
        samples.append(dataset[index])
    return samples

"""Batches of several sources in turn, each of its own size: a stream that can be continued."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from common.config import UserError
from common.data.samplers import Key, sample_rng
from common.distributed.process import rank, world_size

_ROW_STREAM = 2**31 + 51


class Source(Protocol):
    """One of the sources."""

    def __len__(self) -> int:
        """Rows of it."""

    def batch(self, keys: Sequence[Key]) -> Any:
        """A batch of keys (row, epoch)."""


class RoundRobin(IterableDataset[Any]):
    """Endless batches of this rank: the first source, the second, ..., and the first again.

    An epoch ends when the shortest source has no further whole batch, so it has as many batches of
    every source (`length="min"` of the COSMO release). Every source is drawn from a fresh
    permutation in each epoch; batches that are not full are left out. All is a function of (seed,
    epoch, batch): any number of ranks and loader processes reads the same.

    Source: Wang et al. 2024, "COSMO", released code, arXiv 2401.00849.

    Args:
        sources: S of them.
        batch_sizes: samples per rank of a batch of each.
        seed: the experiment's seed.
        unit: samples per rank that the trainer counts for a batch, see
            `ContrastiveData.batch_size`.

    Raises:
        UserError: no source, or one that does not fill a batch on all ranks.
    """

    def __init__(
        self, sources: Sequence[Source], batch_sizes: Sequence[int], seed: int, unit: int = 1
    ) -> None:
        if not sources or len(sources) != len(batch_sizes):
            raise UserError(
                f"{len(sources)} sources with {len(batch_sizes)} batch sizes: one for each"
            )
        self.sources, self.batch_sizes, self.seed, self.unit = (
            list(sources),
            list(batch_sizes),
            seed,
            unit,
        )
        self.first, self.rank, self.world_size = 0, rank(), world_size()
        self._orders: dict[int, tuple[int, np.ndarray]] = {}
        self._check()

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a rank in an epoch."""
        sizes = zip(self.sources, self.batch_sizes, strict=True)
        return len(self.sources) * min(len(s) // (b * self.world_size) for s, b in sizes)

    @property
    def num_samples(self) -> int:
        """Samples of an epoch in the trainer's unit."""
        return self.batches_per_epoch * self.unit * self.world_size

    def start_at(self, batch: int) -> None:
        """Make the next iterator begin at this batch of the stream.

        Called in the training process.
        """
        self.first, self.rank, self.world_size = batch, rank(), world_size()
        self._check()

    def place(self, batch: int) -> tuple[int, list[Key]]:
        """Source and keys (row, epoch) of a batch of this rank."""
        epoch, within = divmod(batch, self.batches_per_epoch)
        turn, number = divmod(within, len(self.sources))
        size = self.batch_sizes[number]
        start = (turn * self.world_size + self.rank) * size
        rows = self._order(number, epoch)[start : start + size]
        return number, [(int(row), epoch) for row in rows]

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        process, lanes = (worker.id, worker.num_workers) if worker else (0, 1)
        batch = self.first + process  # a loader takes its processes in turn
        while True:
            number, keys = self.place(batch)
            yield self.sources[number].batch(keys)
            batch += lanes

    def _order(self, number: int, epoch: int) -> np.ndarray:
        stored = self._orders.get(number)
        if stored is None or stored[0] != epoch:
            order = sample_rng(self.seed, epoch, number, _ROW_STREAM).permutation(
                len(self.sources[number])
            )
            stored = self._orders[number] = epoch, order
        return stored[1]

    def _check(self) -> None:
        for number, (source, size) in enumerate(zip(self.sources, self.batch_sizes, strict=True)):
            if len(source) < size * self.world_size:
                raise UserError(
                    f"source {number} has {len(source)} rows, which do not fill a batch of {size}"
                    f" on {self.world_size} process(es): lower data.batch_size"
                )

"""The data module that every stage trains from: seeded, resumable, worker-safe."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset, IterableDataset

from common.config import UserError
from common.data.deferred import DeferredRows, DeferredStream, finished
from common.data.samplers import SeededBatchSampler, evaluation_batches


def identity(batch: Any) -> Any:
    """Collate function of data sets that build whole batches themselves."""
    return batch


class ContrastiveData(LightningDataModule):
    """Training stream plus named validation sets.

    Args:
        train: a map-style set whose ``__getitem__`` takes a list of keys ``(index, epoch)`` and
            returns one batch, or an `IterableDataset` that yields the batches of this rank and has
            ``start_at(batch)`` (see `common.data.image_text.streaming`).
        batch_size: samples per rank and batch.
        seed: the experiment's seed.
        num_workers: loader processes per rank.
        val: validation sets by name; each item is one sample and is stacked by torch's default
            collate function, or by the set's own ``collate`` if it has one.
        shuffle: False keeps the order of the training set.
        eval_batch_size: samples per validation batch; None: `batch_size`.
        lengths: (N,) length of every training sample, read only if `bucket_batches` is given.
        bucket_batches: bucket the batches by length in windows of this many global batches, see
            `SeededBatchSampler`; None: no bucketing.
        groups: (N,) group (document) of every training sample, for batches of one group each, see
            `SeededBatchSampler`; None: batches of all samples.

    Raises:
        UserError: bucketing or grouping of a stream.
    """

    def __init__(
        self,
        train: Dataset[Any],
        *,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        val: Mapping[str, Dataset[Any]] | None = None,
        shuffle: bool = True,
        eval_batch_size: int | None = None,
        lengths: ArrayLike | None = None,
        bucket_batches: int | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        self.train_set, self.val_sets = train, dict(val or {})
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.shuffle, self.eval_batch_size = shuffle, eval_batch_size or batch_size
        self.lengths, self.bucket_batches, self.groups = lengths, bucket_batches, groups
        if self.streaming and bucket_batches is not None:
            raise UserError("data.bucket_batches works on indexable data only, not on a stream")
        if self.streaming and groups is not None:
            raise UserError("batches by group work on indexable data only, not on a stream")
        self.first_batch = 0

    @property
    def streaming(self) -> bool:
        """Whether the training set is a stream rather than indexable."""
        return isinstance(self.train_set, IterableDataset)

    def batches_per_epoch(self, world_size: int = 1) -> int | None:
        """Training batches of one pass over the data; None if a stream does not say."""
        if self.streaming:
            samples = getattr(self.train_set, "num_samples", None)
            return None if samples is None else int(samples) // (self.batch_size * world_size)
        return self._sampler(0, world_size, None).batches_per_epoch

    def start_at(self, batch: int) -> None:
        """Make the next training loader begin at this batch of the stream (resume)."""
        self.first_batch = batch

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader over the whole training stream, from `start_at` on."""
        if self.streaming:
            self.train_set.start_at(self.first_batch)  # type: ignore[attr-defined]
            stream = DeferredStream(self.train_set) if self._defers() else self.train_set
            return self._loader(stream, batch_size=None)
        sampler = self._sampler(*self._place(), _total_batches(self.trainer))
        sampler.start_at(self.first_batch)
        rows = DeferredRows(self.train_set) if self._defers() else self.train_set
        return self._loader(rows, sampler=sampler, batch_size=None)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Finish on the device what loader processes left to it."""
        if not self._defers():
            return batch
        return self.trainer.precision_plugin.convert_input(finished(batch))  # type: ignore[union-attr]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader per validation set, in the order of `val`.

        Raises:
            UserError: a set has fewer samples than there are processes.
        """
        return [
            DataLoader(
                data,
                batch_sampler=evaluation_batches(
                    len(data),  # type: ignore[arg-type]
                    self.eval_batch_size,
                    *self._place(),
                ),
                num_workers=self.num_workers,
                collate_fn=getattr(data, "collate", None),
                generator=_own_generator(),
                multiprocessing_context=worker_context(self.num_workers),
            )
            for data in self.val_sets.values()
        ]

    def _defers(self) -> bool:
        """Whether views are finished on the device that trains: on a CPU, loaders do it."""
        on_cpu = self.trainer is None or self.trainer.strategy.root_device.type == "cpu"
        return not on_cpu and hasattr(self.train_set, "deferred")

    def _place(self) -> tuple[int, int]:
        """Rank and world size."""
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def _sampler(self, rank: int, world_size: int, total: int | None) -> SeededBatchSampler:
        return SeededBatchSampler(
            len(self.train_set),  # type: ignore[arg-type]
            self.batch_size,
            self.seed,
            rank=rank,
            world_size=world_size,
            shuffle=self.shuffle,
            num_batches=total,
            lengths=self.lengths,
            bucket_batches=self.bucket_batches,
            groups=self.groups,
        )

    def _loader(self, data: Dataset[Any], **options: Any) -> DataLoader[Any]:
        return DataLoader(
            data,
            num_workers=self.num_workers,
            collate_fn=identity,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if self.num_workers else None,
            generator=_own_generator(),
            multiprocessing_context=worker_context(self.num_workers),
            **options,
        )


def worker_context(num_workers: int) -> str | None:
    """How loader processes start, for `DataLoader`; None: as torch does.

    Forked where the system can: data sets hold functions (tokenisers, transforms, places of files)
    that do not pickle, and Python 3.14 no longer forks unless it is told to.
    """
    return "fork" if num_workers and hasattr(os, "fork") else None


def _own_generator() -> torch.Generator:
    """A loader draws its workers' base seed from here, not from the global generator."""
    return torch.Generator().manual_seed(0)


def _total_batches(trainer: Any) -> int | None:
    if trainer is None or trainer.max_steps < 0:
        return None
    return int(trainer.max_steps * trainer.accumulate_grad_batches)

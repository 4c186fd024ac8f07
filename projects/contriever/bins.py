"""Batches of a fixed number of tokens: sequences of similar length share a bin."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.data.samplers import Key, sample_rng

BIN_STREAM = 2**31 + 1
Prepare = Callable[[NDArray[np.int64], NDArray[np.bool_], np.random.Generator], dict[str, Tensor]]


class TokenBins(Dataset[dict[str, Tensor]]):
    """Sequences sorted by length and cut into bins of at most `tokens` positions, padding included.

    An item is one whole bin. Which sequences of equal length share a bin is resampled in every
    epoch; the number of bins and their shapes stay. Use with ``batch_size=1``.

    Args:
        sequences: token ids of each sequence, special tokens included.
        tokens: positions per bin, at least the longest sequence.
        pad_id: id that fills up the rows.
        prepare: ids (B, L), padding (B, L) and a generator -> the batch.
        seed: the experiment's seed.

    Raises:
        ValueError: no sequences, or one that does not fit into a bin.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        tokens: int,
        pad_id: int,
        prepare: Prepare,
        seed: int,
    ) -> None:
        self.lengths = np.array([len(s) for s in sequences], dtype=np.int64)
        if not len(self.lengths) or self.lengths.min() < 1 or self.lengths.max() > tokens:
            raise ValueError(f"need sequences of 1 to {tokens} tokens")
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self.flat = np.fromiter((t for s in sequences for t in s), np.int32, self.offsets[-1])
        self.pad_id, self.prepare, self.seed = pad_id, prepare, seed
        self.bounds = _cut(np.sort(self.lengths), tokens)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def rows(self, index: int, epoch: int) -> NDArray[np.int64]:
        """Sequences of one bin."""
        if self._order is None or self._order[0] != epoch:
            tie = sample_rng(self.seed, epoch, 0, BIN_STREAM).random(len(self.lengths))
            self._order = epoch, np.lexsort((tie, self.lengths))
        return self._order[1][self.bounds[index] : self.bounds[index + 1]]

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        """The bin of the one key ``(index, epoch)``."""
        ((index, epoch),) = keys
        rows = self.rows(index, epoch)
        ids = np.full((len(rows), self.lengths[rows].max()), self.pad_id, dtype=np.int64)
        padding = np.arange(ids.shape[1]) >= self.lengths[rows][:, None]
        for i, row in enumerate(rows):
            ids[i, : self.lengths[row]] = self.flat[self.offsets[row] : self.offsets[row + 1]]
        batch = self.prepare(ids, padding, sample_rng(self.seed, epoch, index))
        return {**batch, "ids": torch.from_numpy(rows)}


def _cut(lengths: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Bounds of the bins over ascending lengths."""
    bounds = [0]
    for i, length in enumerate(lengths):
        if (i + 1 - bounds[-1]) * length > tokens:
            bounds.append(i)
    return np.array([*bounds, len(lengths)])

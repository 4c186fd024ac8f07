"""Seeded samplers: what is drawn is a function of (seed, epoch, rank), never of process state.

A training set is read as one endless stream of batches over epochs, so that a position is one
number and a run can be continued at any batch. Each drawn sample is a key ``(index, epoch)``;
a data set derives all randomness of that access from `sample_rng`, so batches do not depend on
the number of loader processes.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from common.config import UserError

Key = tuple[int, int]  # (sample index, epoch)
Rng = np.random.Generator
KEYED_FROM = 2**22  # samples from which an epoch's order is computed where it is read
_ROUNDS = 6


def drawn_rows(count: int, limit: int, seed: int, stream: int, what: str) -> np.ndarray:
    """That many of `count` rows, drawn by the seed, in their order.

    Args:
        count: rows there are.
        limit: rows wanted.
        seed: of the draw.
        stream: separates draws of one seed.
        what: the rows' name in the message.

    Raises:
        UserError: there are fewer.
    """
    if limit > count:
        raise UserError(f"data.limit={limit}, but there are {count} {what}")
    return np.sort(sample_rng(seed, 0, 0, stream).permutation(count)[:limit])


def sample_rng(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """Random generator of one access to one sample.

    Args:
        seed: the experiment's seed, >= 0.
        epoch: pass over the data, >= 0.
        index: sample index, >= 0.
        stream: separates independent uses within one access (image crop, choice of text, ...).
    """
    return np.random.Generator(
        np.random.Philox(np.random.SeedSequence((seed, epoch, index, stream)))
    )


class KeyedOrder:
    """A pseudo-random permutation of [0, length) of which any slice is computed alone.

    A Feistel network over the next even power of two, walked along until it is in the range: a
    bijection for every key, without an array of all indices.
    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".

    Args:
        length: number of indices, >= 1.
        rng: draws the keys of the rounds.

    >>> order = KeyedOrder(5, np.random.default_rng(0))
    >>> sorted(order[:3].tolist() + order[3:].tolist())
    [0, 1, 2, 3, 4]
    """

    def __init__(self, length: int, rng: Rng) -> None:
        self.length = length
        self._half = np.uint64(max(1, ((length - 1).bit_length() + 1) // 2))
        self._keys = rng.integers(2**64, size=_ROUNDS, dtype=np.uint64)

    def __getitem__(self, places: slice) -> np.ndarray:
        """Indices at a range of places, int64."""
        x = np.arange(*places.indices(self.length), dtype=np.uint64)
        outside = np.ones(len(x), dtype=bool)
        while outside.any():
            x[outside] = self._mixed(x[outside])
            outside = x >= self.length
        indices: np.ndarray = x.astype(np.int64)
        return indices

    def _mixed(self, x: np.ndarray) -> np.ndarray:
        """One pass of the network over numbers of twice `_half` bits."""
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = x >> self._half, x & mask
        for key in self._keys:
            left, right = right, left ^ (_scrambled(right + key) & mask)
        joined: np.ndarray = (left << self._half) | right
        return joined


def _scrambled(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    scrambled: np.ndarray = x ^ (x >> np.uint64(31))
    return scrambled


class SeededBatchSampler:
    """Endless batches of keys ``(index, epoch)``; every epoch is a fresh seeded permutation.

    With W ranks, global batch b holds the permutation's entries ``[b*B*W, (b+1)*B*W)`` and rank r
    takes the r-th contiguous slice of B: the joint batch is the same for any W at equal B*W.
    Incomplete batches are dropped. From `KEYED_FROM` samples on, without bucketing and groups, the
    permutation is a `KeyedOrder`, of which each rank computes its own slices.

    With `bucket_batches` the order of an epoch is bucketed by length, before it is shared among the
    ranks: each window of that many global batches is sorted by length and cut into batches, whose
    order is resampled. A batch then holds samples of similar length and needs less padding.

    With `groups` a global batch holds samples of one group (document) as long as that group has
    enough unused samples: the samples of each group are shuffled and cut into batches, which come
    in random order; what is left of the groups follows, one group after the other, so that a batch
    continues with the next group only where the current one is used up.

    Args:
        length: number of samples.
        batch_size: samples per rank and batch.
        seed: the experiment's seed.
        rank: index of this process, in [0, world_size).
        world_size: number of processes.
        shuffle: False keeps the order of the data.
        num_batches: number of batches to yield in all; None for no end.
        lengths: (length,) what to sort by; needed for `bucket_batches`.
        bucket_batches: global batches in a window, >= 1 (1 only sorts within the batch, and
            changes nothing else); None: no bucketing.
        groups: (length,) group of every sample; None: batches are drawn from all samples.

    Raises:
        UserError: the data set is smaller than one global batch, bucketing is asked for without
            shuffling or without lengths, or groups without shuffling or together with bucketing.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        num_batches: int | None = None,
        lengths: ArrayLike | None = None,
        bucket_batches: int | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        self.batches_per_epoch = length // (batch_size * world_size)
        if self.batches_per_epoch == 0:
            raise too_few_samples(length, batch_size, world_size)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.shuffle = rank, world_size, shuffle
        self.num_batches = num_batches
        self.lengths, self.bucket_batches = _checked_lengths(lengths, length), bucket_batches
        if bucket_batches is not None:
            if bucket_batches < 1:
                raise UserError(f"data.bucket_batches must be at least 1, got {bucket_batches}")
            if self.lengths is None or not shuffle:
                raise UserError("data.bucket_batches needs samples with lengths, and shuffling")
        self.groups = _checked_lengths(groups, length)
        if self.groups is not None and (bucket_batches is not None or not shuffle):
            raise UserError("batches by group need shuffling, and do not combine with bucketing")
        self.first = 0

    def start_at(self, batch: int) -> None:
        """Make the next iterator begin at this batch of the stream (resume)."""
        self.first = batch

    def order(self, epoch: int) -> np.ndarray | KeyedOrder | range:
        """Order of the samples in one epoch, of which slices are taken."""
        if not self.shuffle:
            return range(self.length)
        if self.length >= KEYED_FROM and self.groups is None and self.bucket_batches is None:
            return KeyedOrder(self.length, sample_rng(self.seed, epoch, 0, stream=2**31 + 5))
        return self.permutation(epoch)

    def permutation(self, epoch: int) -> np.ndarray:
        """Order of the samples in one epoch as an array, (length,) int64."""
        if not self.shuffle:
            return np.arange(self.length)
        order = sample_rng(self.seed, epoch, 0, stream=2**31).permutation(self.length)
        if self.groups is not None:
            return self._grouped(order, epoch, self.groups)
        if self.lengths is None or self.bucket_batches is None:
            return order
        return self._bucketed(order, epoch, self.lengths, self.bucket_batches)

    def _bucketed(
        self, order: np.ndarray, epoch: int, lengths: np.ndarray, bucket_batches: int
    ) -> np.ndarray:
        rng = sample_rng(self.seed, epoch, 0, stream=2**31 + 3)
        size = self.batch_size * self.world_size
        used, parts = self.batches_per_epoch * size, []
        for start in range(0, used, bucket_batches * size):
            window = order[start : min(start + bucket_batches * size, used)]
            window = window[np.argsort(lengths[window], kind="stable")]
            parts.append(rng.permutation(window.reshape(-1, size)).reshape(-1))
        return np.concatenate([*parts, order[used:]])

    def _grouped(self, order: np.ndarray, epoch: int, groups: np.ndarray) -> np.ndarray:
        rng = sample_rng(self.seed, epoch, 0, stream=2**31 + 4)
        size = self.batch_size * self.world_size
        # one stable sort instead of a search for every group: documents come by the ten thousand
        names, sizes = np.unique(groups, return_counts=True)
        by_group = np.split(order[np.argsort(groups[order], kind="stable")], np.cumsum(sizes)[:-1])
        members = [by_group[i] for i in rng.permutation(len(names))]
        whole = [group[: len(group) // size * size].reshape(-1, size) for group in members]
        rest = [group[len(group) // size * size :] for group in members]
        return np.concatenate([rng.permutation(np.concatenate(whole)).reshape(-1), *rest])

    def __iter__(self) -> Iterator[list[Key]]:
        batch, order_epoch = self.first, -1
        order: np.ndarray | KeyedOrder | range = range(0)
        while self.num_batches is None or batch < self.num_batches:
            epoch, within = divmod(batch, self.batches_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self.order(epoch), epoch
            start = (within * self.world_size + self.rank) * self.batch_size
            yield [(int(i), epoch) for i in order[start : start + self.batch_size]]
            batch += 1

    def __len__(self) -> int:
        if self.num_batches is None:
            raise TypeError("an endless sampler has no length")
        return self.num_batches


def too_few_samples(length: int, batch_size: int, world_size: int) -> UserError:
    """The error of samples that do not fill one batch of every process."""
    largest = length // world_size
    advice = f"set data.batch_size={largest} or less" if largest else "use fewer processes"
    return UserError(
        f"{length} samples do not fill one batch of {batch_size} on {world_size} process(es): {advice}"
    )


def _checked_lengths(lengths: ArrayLike | None, length: int) -> np.ndarray | None:
    if lengths is None:
        return None
    values = np.asarray(lengths)
    if values.shape != (length,):
        raise ValueError(f"{length} samples need lengths of that shape, got {values.shape}")
    return values


def evaluation_batches(
    count: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[list[int]]:
    """Every rank's share of an evaluation set in batches: no sample twice, none padded.

    All ranks get the same number of batches, as sharded parameters are gathered once a batch: where
    a rank's odd sample would be a batch more than others have, it joins the batch before.

    Args:
        count: samples of the set.
        batch_size: samples of a batch.
        rank: index of this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        UserError: there are fewer samples than processes.

    >>> evaluation_batches(5, 2, 0, 2), evaluation_batches(5, 2, 1, 2)
    ([[0, 2, 4]], [[1, 3]])
    """
    if 0 < count < world_size:
        raise UserError(
            f"a validation set of {count} samples cannot be shared among {world_size} processes: "
            "give it one for each, or lower trainer.devices or trainer.num_nodes"
        )
    indices = list(range(rank, count, world_size))
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    if len(batches) > -(-(count // world_size) // batch_size):  # those of the smallest share
        (odd,) = batches.pop()
        batches[-1].append(odd)
    return batches

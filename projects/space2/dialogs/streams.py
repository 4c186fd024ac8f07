"""Two training sets side by side: every step has a batch of each, and the shorter one begins again.

Source: He et al. 2022, "SPACE-2", released data loaders (semi-supervised), arXiv 2209.06638.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.samplers import Key

MOST_PASSES = 10_000  # of the shorter set within an epoch of the longer one


class CorpusBatches(TaskMixture):
    """As `TaskMixture` with batches of one set each, in which no example stands twice.

    A set is gone through in fresh permutations; what does not fill a batch waits for another one.

    Args:
        sizes: examples of each set.
        samples: examples of each set in an epoch.
        seed: the experiment's seed.
        global_batch_size: rows of a batch over all ranks.
        in_turn: all batches of a set, then those of the next; False: batches in random order.

    Raises:
        UserError: a set that does not fill a batch.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        samples: Sequence[int],
        seed: int,
        global_batch_size: int,
        in_turn: bool,
    ) -> None:
        super().__init__(sizes, samples, seed, global_batch_size, homogeneous=True)
        self.one_by_one = in_turn

    def _used(self, task: int) -> int:
        return self.sizes[task] // self.global_batch_size * self.global_batch_size

    def _order(self, epoch: int) -> np.ndarray:
        return self.in_turn(epoch) if self.one_by_one else super()._order(epoch)


def corpora_stream(
    sizes: Sequence[int],
    seed: int,
    global_batch_size: int,
    *,
    in_turn: bool = True,
    most: int | None = None,
) -> CorpusBatches:
    """Order of several corpora in batches of one corpus each.

    Args:
        sizes: examples of each corpus.
        seed: see `CorpusBatches`; so are `global_batch_size` and `in_turn`.
        global_batch_size: rows of a batch over all ranks.
        in_turn: one corpus after the other.
        most: examples of a corpus in an epoch at most.

    Raises:
        UserError: a corpus that does not fill a batch.
    """
    samples = [size if most is None else min(size, most) for size in sizes]
    return CorpusBatches(sizes, samples, seed, global_batch_size, in_turn)


class PairedStreams(Dataset[Any]):
    """Map-style set of whole batches, read in the order of its keys (no shuffling by the sampler).

    Args:
        streams: by name, the order of each, see `corpora_stream`.
        make: by name, ((corpus, row), epoch) of each example -> a batch.

    Raises:
        UserError: no stream.
    """

    def __init__(
        self,
        streams: Mapping[str, TaskMixture],
        make: Mapping[str, Callable[[Sequence[tuple[int, int]], int], Any]],
    ) -> None:
        if not streams:
            raise UserError("a training set needs at least one stream")
        self.streams, self.make = dict(streams), dict(make)

    def __len__(self) -> int:
        return max(len(stream) for stream in self.streams.values())

    def places(self, name: str, keys: Sequence[Key]) -> list[tuple[int, int]]:
        """(corpus, row) that a stream has at the given keys.

        At its end it starts again, in another order.
        """
        stream, pairs = self.streams[name], []
        passes = -(-len(self) // len(stream))  # of an epoch: none has an order of another epoch
        for index, epoch in keys:
            again, place = divmod(index, len(stream))
            order = stream.order(epoch * passes + again)
            pairs.append((int(order[place, 0]), int(order[place, 1])))
        return pairs

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """A batch of each stream by its name."""
        epoch = keys[0][1] * MOST_PASSES + keys[0][0] // max(
            1, min(map(len, self.streams.values()))
        )
        return {name: self.make[name](self.places(name, keys), epoch) for name in self.streams}

"""Several training sets in one stream of blended batches.

Source: Lee et al. 2024, "NV-Embed", section 4.2, arXiv 2405.17428 (well-blended batches).
"""

from collections.abc import Sequence

import numpy as np

from common.config import UserError
from common.data.samplers import sample_rng

_ORDER_STREAM, _ROW_STREAM = 2**31 + 31, 2**31 + 32


class TaskMixture:
    """Which example of which set is at which position of an epoch.

    An epoch holds a fixed number of examples of every set, so proportions are exact. A set is gone
    through in fresh permutations, each to its end before the next, whatever its share of an epoch.
    All is a function of (seed, epoch): any number of ranks and loader processes reads the same.

    Args:
        sizes: examples of each set.
        samples: examples of each set in an epoch; may be smaller or larger than the set.
        seed: the experiment's seed.
        global_batch_size: rows of a batch over all ranks.
        homogeneous: every batch holds examples of one set; what does not fill a batch is left for
            another epoch.

    Raises:
        UserError: an empty set, or a share that does not fill one batch.

    >>> [len(TaskMixture([3, 9], [4, 4], 0, 4).order(e)) for e in range(2)]
    [8, 8]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        samples: Sequence[int],
        seed: int,
        global_batch_size: int,
        *,
        homogeneous: bool = False,
    ) -> None:
        if len(sizes) != len(samples) or not sizes or min(sizes) < 1 or min(samples) < 1:
            raise UserError(f"a mixture needs examples of every set: {sizes}, shares {samples}")
        if homogeneous:
            samples = [count // global_batch_size * global_batch_size for count in samples]
            if min(samples) < 1:
                raise UserError(
                    f"homogeneous batches of {global_batch_size} need as many examples of every "
                    f"set in an epoch; the shares allow {list(samples)}"
                )
        self.sizes, self.samples, self.seed = list(sizes), list(samples), seed
        self.global_batch_size, self.homogeneous = global_batch_size, homogeneous
        self._cache: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return sum(self.samples)

    def order(self, epoch: int) -> np.ndarray:
        """(N, 2) int64: set and row within it, of every place of the epoch."""
        if self._cache is None or self._cache[0] != epoch:
            self._cache = epoch, self._order(epoch)
        return self._cache[1]

    def in_turn(self, epoch: int) -> np.ndarray:
        """(N, 2): all places of the first set, then those of the next."""
        parts = [
            np.stack([np.full(count, t), self._rows(t, epoch)], axis=1)
            for t, count in enumerate(self.samples)
        ]
        order: np.ndarray = np.concatenate(parts).astype(np.int64)
        return order

    def _order(self, epoch: int) -> np.ndarray:
        rng = sample_rng(self.seed, epoch, 0, _ORDER_STREAM)
        rows = self.in_turn(epoch)
        if not self.homogeneous:
            return rng.permutation(rows)
        batches = rows.reshape(-1, self.global_batch_size, 2)
        return rng.permutation(batches).reshape(-1, 2)

    def _rows(self, task: int, epoch: int) -> np.ndarray:
        count = self.samples[task]
        return self._places(task, epoch * count, count)

    def _used(self, task: int) -> int:
        """Rows of a permutation that are drawn before the next one."""
        return self.sizes[task]

    def _places(self, task: int, first: int, count: int) -> np.ndarray:
        """Rows of a set that are its draws number `first` and following."""
        size, used = self.sizes[task], self._used(task)
        rounds = range(first // used, (first + count - 1) // used + 1)
        drawn = np.concatenate(
            [sample_rng(self.seed, r, task, _ROW_STREAM).permutation(size)[:used] for r in rounds]
        )
        start = first - rounds[0] * used
        return drawn[start : start + count]


def source_probabilities(sizes: Sequence[int], coefficient: float) -> list[float]:
    """Probability of each source: proportional to ``size ** coefficient``.

    Source: Izacard et al. 2022, "Contriever", released code, arXiv 2112.09118; Conneau & Lample
    2019, section 3.1, arXiv 1901.07291 (smoothed sampling of languages).

    Args:
        sizes: > 0, of each source.
        coefficient: 0 is uniform, 1 proportional to the sizes.

    >>> source_probabilities([1, 3], 1.0), source_probabilities([1, 3], 0.0)
    ([0.25, 0.75], [0.5, 0.5])
    """
    if not sizes or min(sizes) < 1:
        raise UserError(f"every source of a mixture needs examples: {list(sizes)}")
    weights = np.asarray(sizes, dtype=np.float64) ** coefficient
    return [float(weight) for weight in weights / weights.sum()]

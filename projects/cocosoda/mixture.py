"""Batches of several sources, drawn by their probabilities."""

from collections.abc import Sequence

import numpy as np

from common.config import UserError
from common.data.mixture import TaskMixture
from common.data.samplers import sample_rng

_SET_STREAM = 2**31 + 33


class DrawnMixture(TaskMixture):
    """Batches of one set each, which is resampled for every batch; as many as all examples fill.

    A set is gone through in fresh permutations, as in `TaskMixture`, also from one epoch to the
    next; what does not fill a batch is left for another one, so that no batch holds an example
    twice.

    Source: Shi et al. 2023, "CoCoSoDa", released code, arXiv 2204.03293 (a language for each step).

    Args:
        sizes: examples of each set.
        probabilities: of the sets, see `source_probabilities`.
        seed: the experiment's seed.
        global_batch_size: rows of a batch over all ranks.

    Raises:
        UserError: a set that does not fill a batch.

    >>> order = DrawnMixture([8, 8], [0.5, 0.5], 0, 4).order(0)
    >>> order.shape, [len(set(batch[:, 0])) for batch in order.reshape(-1, 4, 2)]
    ((16, 2), [1, 1, 1, 1])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        probabilities: Sequence[float],
        seed: int,
        global_batch_size: int,
    ) -> None:
        super().__init__(sizes, sizes, seed, global_batch_size)
        self.probabilities = list(probabilities)
        self.num_batches = sum(self.sizes) // global_batch_size
        if min(self.sizes) < global_batch_size:
            raise UserError(
                f"{min(self.sizes)} examples do not fill a batch of {global_batch_size}: lower "
                "data.batch_size"
            )
        self._before: list[np.ndarray] = [np.zeros(len(self.sizes), dtype=np.int64)]

    def __len__(self) -> int:
        return self.num_batches * self.global_batch_size

    def _used(self, task: int) -> int:
        return self.sizes[task] // self.global_batch_size * self.global_batch_size

    def sets(self, epoch: int) -> np.ndarray:
        """Set of each batch of an epoch, (num_batches,) int64."""
        rng = sample_rng(self.seed, epoch, 0, _SET_STREAM)
        return rng.choice(len(self.sizes), size=self.num_batches, p=self.probabilities)

    def _order(self, epoch: int) -> np.ndarray:
        while len(self._before) <= epoch:  # batches of each set before an epoch
            drawn = np.bincount(self.sets(len(self._before) - 1), minlength=len(self.sizes))
            self._before.append(self._before[-1] + drawn)
        chosen, size = self.sets(epoch), self.global_batch_size
        order = np.empty((self.num_batches, size, 2), dtype=np.int64)
        for t, before in enumerate(self._before[epoch]):
            mine = np.flatnonzero(chosen == t)
            if len(mine):
                rows = self._places(t, int(before) * size, len(mine) * size)
                order[mine, :, 0], order[mine, :, 1] = t, rows.reshape(-1, size)
        return order.reshape(-1, 2)

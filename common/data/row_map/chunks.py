"""A chunk of rows, and the function that is computed on it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common.data.row_map.parts import encoded
from common.data.samplers import Rng, sample_rng


class RowSeed(NamedTuple):
    """Where the randomness of one row comes from."""

    seed: int  # of the stage
    key: int  # of the row: its index, or a hash of its content

    def rng(self, stream: int, attempt: int = 0) -> Rng:
        """Generator of one independent use; `attempt` tells repetitions of it apart."""
        return sample_rng(self.seed, attempt, self.key, stream)


# rows of a chunk, one seed for each -> as many new rows; a row is any JSON value
RowFunction = Callable[[Sequence[Any], Sequence[RowSeed]], Sequence[Any]]


class Job(NamedTuple):
    """A chunk that is to be computed."""

    chunk: int
    rows: list[Any]
    seeds: list[RowSeed]


def compute(function: RowFunction, job: Job) -> bytes:
    """File content of one chunk.

    Raises:
        ValueError: the function gave another number of rows.
    """
    rows = function(job.rows, job.seeds)
    if len(rows) != len(job.rows):
        raise ValueError(f"a row function gave {len(rows)} rows for {len(job.rows)}")
    return encoded(rows)

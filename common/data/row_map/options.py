"""The ``task`` section of a config: how a stage that maps rows to rows is shared out."""

import re
from dataclasses import dataclass
from typing import Literal

from common.ranges import Count, NonNegative

JOIN = "join"


@dataclass
class RowMapConfig:
    """How `make run` works through the rows of a task."""

    # i/n: only share i (0 to n-1) of n, for any scheduler; join: compute nothing, put shares
    # together
    shard: str | None = None
    chunk_size: Count | None = (
        None  # rows in a file and lost at most by a kill; None: the task's own
    )
    engine: Literal["local", "ray"] = "local"  # this process, or workers of a Ray cluster
    workers: Count = 2  # ray: processes, each with its own model
    cpus_per_worker: NonNegative = 1.0  # ray
    gpus_per_worker: NonNegative = 0.0  # ray; may be a fraction
    ray_address: str | None = (
        None  # ray: of a running cluster; None: $RAY_ADDRESS, else a local one
    )

    def __post_init__(self) -> None:
        if self.shard not in (None, JOIN):
            share = re.fullmatch(r"(\d+)/(\d+)", str(self.shard))
            if share is None or int(share[1]) >= int(share[2]):
                raise ValueError(
                    f"task.shard={self.shard}: write i/n with i from 0 to n-1, such as 0/4, or join"
                )

    def share(self, num_chunks: int) -> range:
        """Chunks that this process computes.

        >>> [list(RowMapConfig(shard).share(5)) for shard in ("0/2", "1/2", "join", None)]
        [[0, 2, 4], [1, 3], [], [0, 1, 2, 3, 4]]
        """
        if self.shard is None:
            return range(num_chunks)
        if self.shard == JOIN:
            return range(0)
        # every n-th chunk: neighbours are often equally hard, so that the shares take equally long
        index, count = map(int, self.shard.split("/"))
        return range(index, num_chunks, count)

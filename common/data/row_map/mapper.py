"""One machine for stages that map rows to rows: rewriting, generation, mining, filtering.

Rows are worked through in chunks, each of which becomes a file when it is done; a stage that was
killed goes on with the first chunk that is missing and leaves the same bytes. Any process may take
any share of the chunks. Each row has a random seed of its own, and a chunk is always computed as a
whole, so that not even the rounding of a batched forward pass depends on restarts or shares.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from common.config import UserError
from common.data.row_map.chunks import Job, RowFunction, RowSeed, compute
from common.data.row_map.options import JOIN, RowMapConfig
from common.data.row_map.parts import Parts, rows_digest
from common.data.row_map.ray_engine import ray_contents

T = TypeVar("T")


class Once(Generic[T]):
    """Something costly, such as a model, that several steps build on: made at its first use.

    A copy in another process makes its own.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self.make, self._made = make, list[T]()

    def __call__(self) -> T:
        """The one of this process."""
        if not self._made:
            self._made.append(self.make())
        return self._made[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"make": self.make, "_made": []}


@dataclass(frozen=True)
class RowMap:
    """What is done to every row.

    Attributes:
        name: of the step, for progress and messages.
        build: makes the function, where it is called; not called if no row is missing, so that a
            model is loaded only to work. For ``task.engine=ray`` it has to be picklable.
        settings: what new rows depend on besides their own and `seed`, as plain values.
        seed: of the rows' generators.
        chunk_size: rows in a file, unless ``task.chunk_size`` says otherwise.
        key: (index, row) -> key of the row's seed. The index makes equal rows differ; a hash of
            the content makes a row's result the same in any selection of rows.
    """

    name: str
    build: Callable[[], RowFunction]
    settings: Mapping[str, Any]
    seed: int = 0
    chunk_size: int = 512
    key: Callable[[int, Any], int] = lambda index, row: index


class Display(Protocol):
    """Shows progress; `common.engine.progress.Meter` is one."""

    def update(self, count: int, info: str = "") -> None:
        """So many rows are done."""

    def close(self) -> None:
        """No more rows will come."""


@dataclass(frozen=True)
class MappedRows:
    """A mapping after a call.

    Attributes:
        parts: the files.
        computed: rows that this call computed.
        seconds: that it took.
        missing: chunks that other shares still have to compute.
    """

    parts: Parts
    computed: int
    seconds: float
    missing: int

    @property
    def complete(self) -> bool:
        """Whether every row is there."""
        return not self.missing

    def rows(self) -> Iterator[Any]:
        """New rows in the order of the old ones, read file by file.

        Raises:
            UserError: shares are missing; see `complete`.
        """
        if self.missing:
            raise UserError(f"{self.parts.folder}: {self.summary}")
        return self.parts.rows()

    @property
    def summary(self) -> str:
        """Rows, rate, and what is left to do, in words."""
        rate = f" ({self.computed / max(self.seconds, 1e-9):.1f} rows/s)" if self.computed else ""
        text = f"{self.computed} of {self.parts.num_rows} rows computed by this call{rate}"
        if self.missing:
            text += (
                f"; {self.missing} of {self.parts.num_chunks} chunks are left to other shares: when"
                f" all are done, the same command with task.shard={JOIN} continues"
            )
        return text


def map_rows(
    step: RowMap,
    rows: Sequence[Any],
    folder: Path,
    options: RowMapConfig | None = None,
    display: Callable[[str, int], Display] | None = None,
) -> MappedRows:
    """Compute the rows that are missing in `folder`, or a share of them.

    Args:
        step: what is done to a row.
        rows: N JSON values, read by index; may be lazy.
        folder: of this mapping alone; shares of several machines are joined by copying their
            folders together.
        options: share, engine and chunk size; None: everything in this process.
        display: (name, rows to do) -> progress display.

    Returns:
        The mapping, which is complete unless other shares are missing.

    Raises:
        UserError: the folder was made with other settings or from other rows; task.shard=join and
            chunks are missing; no ray.
        ValueError: the function gave another number of rows.
    """
    options = options or RowMapConfig()
    manifest = {**step.settings, "seed": step.seed, "rows": rows_digest(rows)}
    parts = Parts(folder, len(rows), options.chunk_size or step.chunk_size, manifest, step.name)
    todo = parts.missing(options.share(parts.num_chunks))
    total = sum(len(parts.bounds(c)) for c in todo)
    start, done = time.monotonic(), 0
    if todo:
        shown = display(step.name, total) if display is not None else None
        try:
            for chunk, content in _contents(step, _jobs(step, rows, parts, todo), options):
                parts.write(chunk, content)
                done += len(parts.bounds(chunk))
                if shown is not None:
                    shown.update(done, f"{done / (time.monotonic() - start):.1f} rows/s")
        finally:
            if shown is not None:
                shown.close()
    left = parts.missing(range(parts.num_chunks))
    if left and options.shard == JOIN:
        raise UserError(
            f"task.shard={JOIN}: {folder} lacks {len(left)} of {parts.num_chunks} chunks, the first"
            f" is {parts.path(left[0]).name}; run the shares that are missing, or copy their files"
        )
    return MappedRows(parts, done, time.monotonic() - start, len(left))


def _jobs(step: RowMap, rows: Sequence[Any], parts: Parts, chunks: Iterable[int]) -> Iterator[Job]:
    for chunk in chunks:
        places = parts.bounds(chunk)
        chunk_rows = [rows[i] for i in places]
        seeds = [
            RowSeed(step.seed, step.key(i, row)) for i, row in zip(places, chunk_rows, strict=True)
        ]
        yield Job(chunk, chunk_rows, seeds)


def _contents(
    step: RowMap, jobs: Iterator[Job], options: RowMapConfig
) -> Iterator[tuple[int, bytes]]:
    """(chunk, file content), in any order."""
    if options.engine == "ray":
        yield from ray_contents(step.build, jobs, options)
        return
    function = step.build()
    for job in jobs:
        yield job.chunk, compute(function, job)

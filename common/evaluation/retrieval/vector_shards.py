"""Embeddings of a corpus in memory-mapped shards: written once, by any number of processes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import UserError
from common.damage import reading
from common.data.retrieval.corpus_file import texts_digest
from common.data.shared_files import fill_shards
from common.evaluation.encoding import Progress, no_progress
from common.evaluation.matrices import blocks
from common.files import replacing

PIECES = 16  # a shard is encoded in as many parts, so its peak is little more than the shard


EncodeTexts = Callable[[list[str]], Tensor]  # N texts -> (N, D) on the CPU


@dataclass(frozen=True)
class VectorShards:
    """Finished shards of a corpus, in its order.

    Attributes:
        folder: holds ``shard-00000.npy``, ..., float32.
        count: N rows in all.
        shard_size: rows of every shard but the last.
    """

    folder: Path
    count: int
    shard_size: int

    def __len__(self) -> int:
        return self.count

    @property
    def num_shards(self) -> int:
        """How many files there are."""
        return -(-self.count // self.shard_size)

    def rows(self, shard: int) -> NDArray[np.float32]:
        """One shard, (n, D), memory-mapped and read-only.

        Raises:
            UserError: the file is damaged or has another number of rows.
        """
        path = shard_path(self.folder, shard)
        with reading(path, "shard of embeddings"):
            rows: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = min(self.shard_size, self.count - shard * self.shard_size)
        if rows.ndim != 2 or len(rows) != expected or rows.dtype != np.float32:
            raise UserError(
                f"{path} has the shape {rows.shape}, not ({expected}, dimension): delete it and "
                "start again"
            )
        return rows

    def whole(self) -> Tensor:
        """All rows in memory, (N, D)."""
        rows = torch.empty(self.count, self.rows(0).shape[1])
        for start, part in self.blocks(self.shard_size):
            rows[start : start + len(part)] = torch.from_numpy(np.array(part))
        return rows

    def take(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """Some rows in the given order, (n, D)."""
        which, inside = np.divmod(rows, self.shard_size)
        taken = np.empty((len(rows), self.rows(0).shape[1]), np.float32)
        for shard in np.unique(which):
            here = which == shard
            taken[here] = self.rows(int(shard))[inside[here]]
        return taken

    def blocks(
        self, size: int, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Consecutive rows with the number of the first; every shard is unmapped after its turn.

        Args:
            size: most rows of a block.
            part: (i, n) takes the shards i, i + n, ...
        """
        for shard in range(part[0], self.num_shards, part[1]):
            rows = self.rows(shard)
            for rows_of_block in blocks(len(rows), size):
                yield shard * self.shard_size + rows_of_block.start, rows[rows_of_block]


def shard_path(folder: Path, shard: int) -> Path:
    """File of a shard."""
    return folder / f"shard-{shard:05d}.npy"


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
    """An ``.npy`` file that is written through a memory map."""
    return np.lib.format.open_memmap(path, "w+", dtype, shape)  # type: ignore[no-untyped-call]


def encode_shards(
    encode: EncodeTexts,
    texts: Sequence[str],
    folder: Path,
    model_key: str,
    *,
    shard_size: int,
    wait: bool = True,
    progress: Progress = no_progress,
) -> VectorShards | None:
    """Embed a corpus into a folder; finished shards are kept, so a killed process continues.

    Any number of processes may call this for the same folder, also from several machines that
    share it: each takes the next shard that no other process is encoding. The kernel frees the
    shard of a process that dies.

    Args:
        encode: N texts -> (N, D) on the CPU, model in evaluation mode.
        texts: the corpus; a slice of it is a list, and the whole need not be in memory.
        folder: one for each corpus and model.
        model_key: names weights and settings of the encoder.
        shard_size: rows of a shard. At its peak a process holds little more than one shard.
        wait: whether to wait for the shards of other processes; if not, None is returned while
            they are unfinished.
        progress: wraps the loop over the parts of a shard.

    Raises:
        UserError: the folder belongs to another corpus, model or shard size.
        ValueError: no texts, or the encoder returns another number of rows or dimensions.
    """
    if not len(texts):
        raise ValueError("there is nothing to encode")
    owner = {"texts": texts_digest(texts), "model": model_key, "shard_size": shard_size}
    shards = VectorShards(folder, len(texts), shard_size)

    def write(shard: int) -> None:
        part = slice(shard * shard_size, min((shard + 1) * shard_size, len(texts)))
        _encode_shard(encode, texts, part, shard_path(folder, shard), progress)

    paths = [shard_path(folder, i) for i in range(shards.num_shards)]
    return shards if fill_shards(folder, owner, paths, write, wait=wait) else None


def _encode_shard(
    encode: EncodeTexts, texts: Sequence[str], part: slice, path: Path, progress: Progress
) -> None:
    count = part.stop - part.start
    size = -(-count // PIECES)
    pieces: Iterable[slice] = list(blocks(count, size))
    pieces = progress(pieces, f"encode {part.start}-{part.stop} of {len(texts)}", -(-count // size))
    with replacing(path) as temporary:
        target: NDArray[np.float32] | None = None
        for piece in pieces:
            rows = list(texts[part.start + piece.start : part.start + piece.stop])
            vectors = encode(rows).detach().float().numpy()
            shape = (count, vectors.shape[1] if target is None else target.shape[1])
            if vectors.shape != (len(rows), shape[1]):
                raise ValueError(
                    f"the encoder gave {vectors.shape} for {len(rows)} texts, not ({len(rows)}, D)"
                )
            if target is None:
                target = new_array(temporary, np.float32, shape)
            target[piece] = vectors
        del target

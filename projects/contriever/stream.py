"""Texts as one long row of token ids, read in chunks; two views of each chunk.

No borders of texts are kept: a chunk may end one text and begin the next.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.damage import ERRORS
from common.data.mixture import source_probabilities
from common.data.padding import TextInputs, padded
from common.data.samplers import Key, sample_rng
from common.data.text.token_files import id_files
from common.encoders.text.template import plain_ids, special_tokens
from common.engine.workspace import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = NDArray[np.int64]
# ids of a chunk, generator -> ids of the two views
TwoViews = Callable[[Ids, np.random.Generator], tuple[Ids, Ids]]
SHARD_SETTINGS = "shards.json"  # alongside token files: what they were written with
_OFFSET_STREAM, _SOURCE_STREAM, _VIEW_STREAM = 2**31 + 51, 2**31 + 52, 2**31 + 53
_ROWS = 4096  # texts given to the tokenizer at once


class ChunkPairBatch(TypedDict):
    """Two views of B chunks."""

    query: TextInputs
    key: TextInputs
    source: Tensor  # (B,) int64, index of the source
    ids: Tensor  # (B,) int64, places in the epoch


class TokenStream:
    """Rows of token ids (shards) cut into chunks, from an offset that changes with the epoch.

    Chunk i of a shard is ``[offset + i * length, offset + (i + 1) * length)``; it never goes from
    one shard into the next.

    Source: Izacard et al. 2022, "Contriever", released code (LazyDataset), arXiv 2112.09118.

    Args:
        shards: (T,) integer arrays, also memory-mapped ones.
        length: tokens of a chunk.
        name: for messages.

    Raises:
        UserError: no shard is longer than a chunk (what an offset takes has to be left).
    """

    def __init__(self, shards: Sequence[NDArray[np.integer]], length: int, name: str = "") -> None:
        self.length, self.shards = length, [s for s in shards if len(s) // length > 1]
        if not self.shards:
            raise UserError(f"source '{name}' has no run of {2 * length} tokens (two chunks)")
        counts = [(len(shard) - length) // length for shard in self.shards]
        self._first = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards that are read."""
        return sum(len(shard) for shard in self.shards)

    def chunk(self, index: int, offset: int) -> Ids:
        """Tokens of a chunk, (length,) int64.

        Args:
            index: in [0, len(self)).
            offset: in [0, length).
        """
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        start = offset + (index - int(self._first[shard])) * self.length
        return np.asarray(self.shards[shard][start : start + self.length], dtype=np.int64)


class ChunkPairs(Dataset[ChunkPairBatch]):
    """Two views of chunks from one or several token streams; returns whole batches.

    With one source an index is a chunk of it. With several, every element of a batch draws its
    source with probability proportional to ``size ** coefficient`` and one of its chunks; the
    number of elements of an epoch is that of all chunks. All draws depend on (seed, epoch, index).

    Source: Izacard et al. 2022, "Contriever", section 3 and released code, arXiv 2112.09118.

    Args:
        sources: name -> stream; all of one chunk length.
        tokenizer: names the special tokens that stand around a view, and the padding.
        two_views: makes the views, see `projects.contriever.noise`.
        coefficient: of the sizes in tokens; 0 draws sources uniformly.
        seed: the experiment's seed.

    Raises:
        UserError: no source, a tokenizer without padding token, or streams of unequal chunks.
    """

    def __init__(
        self,
        sources: Mapping[str, TokenStream],
        tokenizer: "PreTrainedTokenizerBase",
        two_views: TwoViews,
        *,
        coefficient: float = 0.0,
        seed: int = 0,
    ) -> None:
        if len({stream.length for stream in sources.values()}) != 1:
            raise UserError("a set of chunks needs one or more sources of equal chunk length")
        if tokenizer.pad_token_id is None:
            raise UserError("this tokenizer has no padding token: set tokenizer.pad_token first")
        self.names, self.streams = list(sources), list(sources.values())
        self.two_views, self.seed = two_views, seed
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.pad_id = int(tokenizer.pad_token_id)
        sizes = [stream.num_tokens for stream in self.streams]
        self.probabilities = source_probabilities(sizes, coefficient)

    def __len__(self) -> int:
        return sum(len(stream) for stream in self.streams)

    def __getitem__(self, keys: Sequence[Key]) -> ChunkPairBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        chosen = [self.place(index, epoch) for index, epoch in keys]
        pairs = [
            self.views(source, row, index, epoch)
            for (source, row), (index, epoch) in zip(chosen, keys, strict=True)
        ]
        return {
            "query": self._inputs([query for query, _ in pairs]),
            "key": self._inputs([key for _, key in pairs]),
            "source": torch.tensor([source for source, _ in chosen]),
            "ids": torch.tensor([index for index, _ in keys]),
        }

    def place(self, index: int, epoch: int) -> tuple[int, int]:
        """Source and chunk within it of an index of an epoch."""
        if len(self.streams) == 1:
            return 0, index
        rng = sample_rng(self.seed, epoch, index, _SOURCE_STREAM)
        source = int(rng.choice(len(self.streams), p=self.probabilities))
        return source, int(rng.integers(len(self.streams[source])))

    def offset(self, source: int, epoch: int) -> int:
        """Where the first chunk of a source begins in an epoch, in [0, length)."""
        rng = sample_rng(self.seed, epoch, source, _OFFSET_STREAM)
        return int(rng.integers(self.streams[source].length))

    def views(self, source: int, row: int, index: int, epoch: int) -> tuple[Ids, Ids]:
        """The two views of a chunk, without special tokens."""
        chunk = self.streams[source].chunk(row, self.offset(source, epoch))
        return self.two_views(chunk, sample_rng(self.seed, epoch, index, _VIEW_STREAM))

    def _inputs(self, rows: Sequence[Ids]) -> TextInputs:
        return padded([row.tolist() for row in rows], self.pad_id, self.prefix, self.suffix)


def flat_ids(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> NDArray[np.int32]:
    """Ids of all texts one after the other, without special tokens, (T,) int32."""
    parts = [
        np.fromiter(
            (i for row in plain_ids(tokenizer, texts[a : a + _ROWS]) for i in row), np.int32
        )
        for a in range(0, len(texts), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


def open_shards(folder: Path) -> list[NDArray[np.integer]]:
    """The token files of a folder that TASK=tokenize wrote, memory-mapped, by text file and number.

    Raises:
        UserError: none, some that are missing, or one that is not a row of integers.
    """
    refuse_loose_shards(folder)
    texts = sorted(folder.glob(f"*/{SHARD_SETTINGS}"))
    if not texts:
        raise UserError(
            f"{folder} has no token shards: write them with TASK=tokenize from text files with one "
            "text per line"
        )
    shards = []
    for about in texts:
        for path in id_files(about.parent, read_json(about)["shards"]):
            if not path.is_file():
                raise UserError(
                    f"{path} is missing: run TASK=tokenize again, which writes the rest"
                )
            try:
                shard = np.load(path, mmap_mode="r", allow_pickle=False)
            except ERRORS as error:
                raise UserError(
                    f"{path} is not a NumPy array ({error}): delete it and run TASK=tokenize again"
                ) from error
            if shard.ndim != 1 or shard.dtype.kind not in "iu":
                raise UserError(
                    f"{path} must be one row of integers, got {shard.dtype} {shard.shape}"
                )
            shards.append(shard)
    return shards


def refuse_loose_shards(folder: Path) -> None:
    """Refuse shards as TASK=tokenize wrote them up to 0.2.0, without a folder for each text file.

    Raises:
        UserError: the folder has some.
    """
    if loose := sorted(folder.glob("*.npy")):
        raise UserError(
            f"{folder} has token shards of an earlier version ({loose[0].name}): write them again "
            "with TASK=tokenize, into another folder"
        )

"""Token ids of a corpus of any size, memory-mapped: written once, by all processes of a run."""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.shared_files import fill_shards
from common.files import replacing

ROWS = 200_000  # of a corpus in one file of ids, unless asked otherwise
Ids = NDArray[np.integer]


def write_token_files(
    folder: Path,
    owner: str,
    count: int,
    tokenise: Callable[[range], Iterable[Sequence[int]]],
    dtype: type[np.integer] = np.int32,
    rows: int = ROWS,
) -> list[Path]:
    """Files of ids of a corpus; those that are there stay.

    Each holds the ids of some texts one after the other; ``starts-...`` next to it, where each text
    begins.

    Args:
        folder: of this corpus and tokenizer; the processes of a run share out the files.
        owner: names the content of both.
        count: rows of the corpus.
        tokenise: ids of the texts of some rows, such as lines, of which not each need be a text.
        dtype: of the ids.
        rows: of the corpus, whose ids are in one file.
    """
    parts = [range(start, min(start + rows, count)) for start in range(0, count, rows)]
    paths = id_files(folder, len(parts))

    def write(part: int) -> None:
        ids, starts = array(np.dtype(dtype).char), array("q", [0])
        for row in tokenise(parts[part]):  # one by one: lists take nine times the memory of ids
            ids.extend(row)
            starts.append(len(ids))
        for name, content in ((starts_of(paths[part]), starts), (paths[part], ids)):
            with replacing(name) as temporary, temporary.open("wb") as file:
                np.save(file, content)

    fill_shards(folder, {"tokens": owner}, paths, write)
    return paths


def id_files(folder: Path, count: int) -> list[Path]:
    """The files of ids that `write_token_files` writes to a folder, by their number."""
    return [folder / f"ids-{i:05d}.npy" for i in range(count)]


def starts_of(path: Path) -> Path:
    """Where the texts of a file of ids begin."""
    return path.with_name(path.name.replace("ids-", "starts-"))


class TokenTexts(Sequence[list[int]]):
    """Ids of texts by number, without the first ones.

    Args:
        paths: of `write_token_files`.
        skip: texts at the beginning that are left out.
    """

    def __init__(self, paths: Sequence[Path], skip: int = 0) -> None:
        self.paths, self.skip = list(paths), skip
        self._open()

    def _open(self) -> None:
        self._ids = [np.load(p, mmap_mode="r", allow_pickle=False) for p in self.paths]
        self._starts = [
            np.load(starts_of(p), mmap_mode="r", allow_pickle=False) for p in self.paths
        ]
        self._texts = np.cumsum([0, *(len(starts) - 1 for starts in self._starts)]).tolist()
        self._tokens = np.cumsum([0, *map(len, self._ids)]).tolist()
        self._first = 0  # token with which the texts that count begin
        if 0 < self.skip < self._texts[-1]:
            part, text = self._place(self.skip)
            self._first = self._tokens[part] + int(self._starts[part][text])

    def _place(self, text: int) -> tuple[int, int]:
        part = bisect_right(self._texts, text) - 1
        return part, text - self._texts[part]

    def __len__(self) -> int:
        return max(0, int(self._texts[-1]) - self.skip)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        part, text = self._place(index + self.skip)
        start, end = self._starts[part][text : text + 2]
        ids: list[int] = self._ids[part][start:end].tolist()
        return ids

    @property
    def num_tokens(self) -> int:
        """Tokens of all texts."""
        return int(self._tokens[-1]) - self._first if len(self) else 0

    def lengths(self) -> Ids:
        """Tokens of each text, (N,) int64."""
        return np.concatenate([np.diff(starts) for starts in self._starts])[self.skip :]

    def span(self, start: int, end: int) -> list[int]:
        """Ids from one place of the texts, one after the other, to another."""
        start, end = start + self._first, end + self._first
        ids: list[int] = []
        part = bisect_right(self._tokens, start) - 1
        while start < end:
            stop = min(end, self._tokens[part + 1])
            shift = self._tokens[part]
            ids += self._ids[part][start - shift : stop - shift].tolist()
            start, part = stop, part + 1
        return ids

    def __iter__(self) -> Iterator[list[int]]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "skip": self.skip}  # loader processes map the files themselves

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

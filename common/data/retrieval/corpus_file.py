"""A corpus of the BEIR layout that stays on disk: documents by id or by number."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from common.config import UserError
from common.data.lines import LineFile, cached_index
from common.data.offline import content_digest
from common.data.retrieval.beir import document_text, json_row

ON_DISK_FROM_BYTES = 1 << 28  # smaller files are read into memory

BLOCK = 1 << 12  # documents that are read at a time

Field = Callable[[Mapping[str, Any]], str]


class CorpusFile(Mapping[str, str]):
    """Id -> text of ``corpus.jsonl``; neither texts nor ids are in memory.

    One table of byte ranges and one of hashed ids are written alongside the file when it is first
    opened, and memory-mapped from then on: 24 bytes a document.

    Args:
        path: of the file, not compressed.
        field: row -> text; `document_text` if left out.

    Raises:
        UserError: the file is missing or broken, or has two documents of one id.
    """

    def __init__(self, path: Path, field: Field = document_text) -> None:
        self.path, self.field = path, field
        self._lines = LineFile(path)
        self._digest: str | None = None
        table = cached_index(path, "ids", self._hashed)
        self._keys, self._places = table[:, 0], table[:, 1]
        for place in np.flatnonzero(self._keys[1:] == self._keys[:-1]).tolist():
            first, second = (self.row(int(self._places[place + i])) for i in (0, 1))
            if first["_id"] == second["_id"]:
                raise UserError(f"{path} has two documents of the id {first['_id']!r}")

    def _hashed(self, file: BinaryIO) -> Iterator[tuple[int, int]]:
        """Hash and number of every document, by hash."""
        keys = np.fromiter((text_hash(row["_id"]) for row in self.rows()), np.int64)
        order = keys.argsort(kind="stable")
        for start in range(0, len(order), 1 << 16):
            places = order[start : start + (1 << 16)]
            yield from zip(keys[places].tolist(), places.tolist(), strict=True)

    def with_field(self, field: Field) -> "CorpusFile":
        """The same documents, of which another text is read."""
        other = CorpusFile.__new__(CorpusFile)
        other.__dict__.update(self.__dict__, field=field)
        return other

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, name: str) -> str:
        if (place := self.place(name)) is None:
            raise KeyError(name)
        return self.field(self.row(place))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.place(name) is not None

    def __iter__(self) -> Iterator[str]:
        return (str(row["_id"]) for row in self.rows())

    def place(self, name: str) -> int | None:
        """Number of a document; None if there is no such id."""
        key = text_hash(name)
        start = int(np.searchsorted(self._keys, key))
        while start < len(self) and self._keys[start] == key:
            place = int(self._places[start])
            if self.name(place) == name:
                return place
            start += 1
        return None

    def name(self, place: int) -> str:
        """Id of the document with a number."""
        return str(self.row(place)["_id"])

    def row(self, place: int) -> dict[str, Any]:
        """One line as it is in the file.

        Raises:
            UserError: it is no object with ``_id`` and ``text``.
        """
        return json_row(self._lines[place], f"{self.path}, line {place + 1}")

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Consecutive lines, some thousands of which are read at a time.

        Raises:
            UserError: see `row`.
        """
        stop = len(self) if stop is None else stop
        for first in range(start, stop, BLOCK):
            lines = self._lines.part(first, min(first + BLOCK, stop))
            for number, line in enumerate(lines, first + 1):
                yield json_row(line, f"{self.path}, line {number}")

    def values(self) -> "CorpusValues":
        """The texts in the order of the file."""
        return CorpusValues(self)

    @property
    def digest(self) -> str:
        """SHA-256 of the file, and of which text is read."""
        if self._digest is None:
            with self.path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            self._digest = content
        return f"{self._digest}-{self.field.__name__}"


class CorpusValues(ValuesView[str]):
    """Iterates a `CorpusFile` without a search for every id."""

    def __init__(self, corpus: CorpusFile) -> None:
        super().__init__(corpus)
        self.corpus = corpus

    def __iter__(self) -> Iterator[str]:
        return iter(CorpusTexts(self.corpus))


class _ByNumber(Sequence[str]):
    """Something of every document by its number; a slice is a list."""

    def __init__(self, corpus: CorpusFile) -> None:
        self.corpus = corpus

    def __len__(self) -> int:
        return len(self.corpus)

    def __iter__(self) -> Iterator[str]:
        return map(self.of_row, self.corpus.rows())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            return self.of_row(self.corpus.row(index))
        start, stop, step = index.indices(len(self))
        if step != 1:
            return [self[i] for i in range(start, stop, step)]
        return [self.of_row(row) for row in self.corpus.rows(start, stop)]

    def of_row(self, row: Mapping[str, Any]) -> str:
        """That of one line."""
        raise NotImplementedError


class CorpusTexts(_ByNumber):
    """Texts of a `CorpusFile`."""

    @property
    def digest(self) -> str:
        """See `CorpusFile.digest`."""
        return self.corpus.digest

    def of_row(self, row: Mapping[str, Any]) -> str:
        """The text that the corpus reads of it."""
        return self.corpus.field(row)


class CorpusNames(_ByNumber):
    """Ids of a `CorpusFile`."""

    def of_row(self, row: Mapping[str, Any]) -> str:
        """The id."""
        return str(row["_id"])


class DistinctTexts(Sequence[str]):
    """Texts of several sequences, each once, at the place where it comes first.

    Memory holds 24 bytes a text; the texts stay where they are. Texts count as equal if 64 bits
    of their hashes are (21 million texts: one chance in 80,000 of a mistake).

    Args:
        parts: such as a list and `texts_of` a corpus.

    >>> texts = DistinctTexts(["b", "a"], ["a", "c"])
    >>> list(texts), texts.place("c"), "d" in texts
    (['b', 'a', 'c'], 2, False)
    """

    def __init__(self, *parts: Sequence[str]) -> None:
        self.parts = [part for part in parts if len(part)]
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])
        hashes = (text_hash(text) for part in self.parts for text in part)
        keys = np.fromiter(hashes, np.int64, int(self._starts[-1]))
        self.digest = hashlib.sha256(keys.tobytes()).hexdigest()
        self._keys, first = np.unique(keys, return_index=True)
        self._rows = np.sort(first)  # of all texts, those that count
        self._places = np.searchsorted(self._rows, first)  # by hash

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            row = int(self._rows[index])
            part = int(np.searchsorted(self._starts, row, side="right")) - 1
            return self.parts[part][row - int(self._starts[part])]
        return list(self._read(self._rows[index]))

    def __iter__(self) -> Iterator[str]:
        for rows in np.array_split(self._rows, -(-len(self) // BLOCK) or 1):
            yield from self._read(rows)

    def __contains__(self, text: object) -> bool:
        return self._at(text) is not None

    def place(self, text: str) -> int:
        """Number of a text.

        Raises:
            KeyError: it is not here.
        """
        if (at := self._at(text)) is None:
            raise KeyError(text)
        return int(self._places[at])

    def _at(self, text: object) -> int | None:
        """Where its hash is among the sorted ones."""
        key = text_hash(text)
        at = int(np.searchsorted(self._keys, key))
        return at if at < len(self) and self._keys[at] == key else None

    def _read(self, rows: np.ndarray) -> Iterator[str]:
        """Texts by their numbers among all; those that follow one another at one look."""
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            for part, start in zip(self.parts, self._starts.tolist(), strict=False):
                inside = run[(run >= start) & (run < start + len(part))] - start
                if len(inside):
                    yield from part[int(inside[0]) : int(inside[-1]) + 1]


def texts_of(corpus: Mapping[str, str]) -> Sequence[str]:
    """The texts of a corpus by number; those of a `CorpusFile` stay on disk."""
    return CorpusTexts(corpus) if isinstance(corpus, CorpusFile) else list(corpus.values())


def names_of(corpus: Mapping[str, str]) -> Sequence[str]:
    """The ids of a corpus by number; those of a `CorpusFile` stay on disk."""
    return CorpusNames(corpus) if isinstance(corpus, CorpusFile) else list(corpus)


def texts_digest(texts: Iterable[str]) -> str:
    """Hash of a corpus: of its file or its texts' hashes where it has them, else of the texts."""
    if isinstance(texts, (CorpusTexts, DistinctTexts)):
        return texts.digest
    return content_digest(texts)


def text_hash(text: Any) -> int:
    """64 bits of a text's hash."""
    digest = hashlib.blake2b(str(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)

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
        keys = np.fromiter((_hash(self.row(i)["_id"]) for i in range(len(self))), np.int64)
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
        return (self.name(i) for i in range(len(self)))

    def place(self, name: str) -> int | None:
        """Number of a document; None if there is no such id."""
        key = _hash(name)
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

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.of_document(i) for i in range(*index.indices(len(self)))]
        return self.of_document(index)

    def of_document(self, place: int) -> str:
        """That of one document."""
        raise NotImplementedError


class CorpusTexts(_ByNumber):
    """Texts of a `CorpusFile`."""

    @property
    def digest(self) -> str:
        """See `CorpusFile.digest`."""
        return self.corpus.digest

    def of_document(self, place: int) -> str:
        """The text that the corpus reads of a row."""
        return self.corpus.field(self.corpus.row(place))


class CorpusNames(_ByNumber):
    """Ids of a `CorpusFile`."""

    def of_document(self, place: int) -> str:
        """The id."""
        return self.corpus.name(place)


def texts_of(corpus: Mapping[str, str]) -> Sequence[str]:
    """The texts of a corpus by number; those of a `CorpusFile` stay on disk."""
    return CorpusTexts(corpus) if isinstance(corpus, CorpusFile) else list(corpus.values())


def names_of(corpus: Mapping[str, str]) -> Sequence[str]:
    """The ids of a corpus by number; those of a `CorpusFile` stay on disk."""
    return CorpusNames(corpus) if isinstance(corpus, CorpusFile) else list(corpus)


def texts_digest(texts: Iterable[str]) -> str:
    """Hash of a corpus: of its file where it has one, else of the texts."""
    return texts.digest if isinstance(texts, CorpusTexts) else content_digest(texts)


def _hash(name: Any) -> int:
    digest = hashlib.blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)

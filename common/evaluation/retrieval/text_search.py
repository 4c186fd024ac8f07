"""Queries from a file or the keyboard, nearest texts of a file or folder printed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.config import UserError
from common.damage import reading
from common.evaluation.retrieval.beir import has_corpus, load_corpus
from common.evaluation.retrieval.options import SearchConfig
from common.evaluation.retrieval.text_index import INDEX, Hit, TextEncoder, TextIndex

KINDS = (".txt", ".md")  # files of a folder that are read
BLOCK = 256  # queries of a file that are searched at a time


class SearchesTexts(Protocol):
    """A `TextIndex`, or one that finds texts in another way."""

    metric: Any

    def __len__(self) -> int: ...

    def search(
        self, queries: Sequence[str], k: int = ..., threshold: float | None = ...
    ) -> list[list[Hit]]:
        """The best texts of every query."""

    def extend(self, texts: Sequence[str]) -> int:
        """Add texts; the number of new ones."""

    def save(self, folder: Path, model_key: str) -> None:
        """Write the index."""


X = TypeVar("X", bound=SearchesTexts)


def search_texts(index: SearchesTexts, options: SearchConfig) -> None:
    """Print the nearest texts of each query.

    Args:
        index: the collection.
        options: section of the config; its `file` and `run` are the caller's part.

    Raises:
        UserError: a file of queries that is missing or empty.
    """
    print(f"{len(index)} texts indexed")  # noqa: T201
    size = BLOCK if options.queries else 1  # what is typed is answered at once
    asked = iter(queries_of(options))
    while part := list(islice(asked, size)):
        for query, hits in zip(part, index.search(part, options.k, options.threshold), strict=True):
            print(f"\n{query}")  # noqa: T201
            for hit in hits:
                print(f"  {hit.score:6.3f}  {hit.text}")  # noqa: T201
            if not hits:
                name = "cosine" if index.metric == "cosine" else "score"
                print(f"  no text has a {name} of {options.threshold} or more")  # noqa: T201


def queries_of(options: SearchConfig) -> Iterable[str]:
    """Queries of the file that the options name, else those that are typed, one after the other.

    Raises:
        UserError: a file that is missing or empty.
    """
    return read_texts(options.queries) if options.queries else _asked()


def indexed(
    options: SearchConfig,
    encoder: TextEncoder,
    texts: Callable[[], Sequence[str]],
    model_key: Callable[[], str],
    **settings: Any,
) -> TextIndex:
    """`kept_index` of a `TextIndex`."""
    return kept_index(TextIndex, options, encoder, texts, model_key, **settings)


def kept_index(
    kind: type[X],
    options: SearchConfig,
    encoder: Any,
    texts: Callable[[], Sequence[str]],
    model_key: Callable[[], str],
    **settings: Any,
) -> X:
    """The index of a search: opened and extended, or built (and kept), as the options say.

    Args:
        kind: class of the index, which is made and opened as `TextIndex` is.
        options: section of the config.
        encoder: of the documents.
        texts: the collection where ``search.file`` is null.
        model_key: names the encoder's weights.
        settings: of the index.

    Raises:
        UserError: a file that is missing or empty, or an index of another encoder.
    """
    make: Any = kind
    kept = None if options.index is None else Path(options.index).expanduser()
    index: X
    if kept is None or not (kept / INDEX).is_file():
        collection = read_texts(options.file) if options.file else texts()
        index = make(encoder, collection, **settings)
        added = len(index)
    else:
        owner = {name: value for name, value in settings.items() if name != "metric"}
        index = make.open(kept, encoder, model_key(), **owner)
        added = index.extend(read_texts(options.file)) if options.file else 0
        print(f"{kept}: opened, {added} texts added")  # noqa: T201
    if kept is not None and added:
        index.save(kept, model_key())
    return index


def read_texts(place: str | Path) -> list[str]:
    """Texts of a file, one a line, or of a folder, see `SearchConfig.file`.

    Raises:
        UserError: nothing is there, no text in it, or a file that is not UTF-8.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        collection = list(load_corpus(path).values()) if has_corpus(path) else _paragraphs(path)
    elif path.is_file():
        collection = _lines(path)
    else:
        raise UserError(f"text file {path} does not exist")
    collection = [text.strip() for text in collection if text.strip()]
    if not collection:
        raise UserError(f"{path} has no text")
    return collection


def _lines(file: Path) -> list[str]:
    """Lines at line breaks alone (a text may hold other separators), without a byte order mark."""
    with reading(file, "text file in UTF-8"):
        return file.read_text(encoding="utf-8-sig").split("\n")


def _paragraphs(folder: Path) -> Sequence[str]:
    """What blank lines divide, each on one line, of the files in the order of their names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in KINDS)
    parts: list[str] = []
    for file in files:
        part: list[str] = []
        for line in (*_lines(file), ""):
            if line.strip():
                part.append(line.strip())
            elif part:
                parts.append(" ".join(part))
                part = []
    return parts


def _asked() -> Iterator[str]:
    while True:
        try:
            query = input("\nquery (empty line to end): ").strip()
        except EOFError:
            print()  # noqa: T201
            return
        if not query:
            return
        yield query

"""Queries from a file or the keyboard, nearest texts of a file or folder printed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.config import UserError
from common.damage import reading
from common.data.tables import write_jsonl
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


class KeepsTexts(SearchesTexts, Protocol):
    """One that can be extended and written."""

    def extend(self, texts: Sequence[str]) -> int:
        """Add texts; the number of new ones."""

    def save(self, folder: Path, model_key: str) -> None:
        """Write the index."""


X = TypeVar("X", bound=KeepsTexts)


@dataclass(frozen=True)
class Documents:
    """Distinct texts of a file or folder in their order, and what became of its rows."""

    texts: list[str]
    ids: dict[str, list[str]]  # text -> its documents in the BEIR layout; empty elsewhere
    num_rows: int
    num_empty: int

    @property
    def summary(self) -> str:
        """How many rows were read, and why there may be fewer texts."""
        repeated = self.num_rows - self.num_empty - len(self.texts)
        left_out = [f"{self.num_empty} empty"] * (self.num_empty > 0)
        left_out += [f"{repeated} repeated"] * (repeated > 0)
        reason = f" ({' and '.join(left_out)} left out)" if left_out else ""
        kind = "documents" if self.ids else "texts"
        return f"{len(self.texts)} of {self.num_rows} {kind} read{reason}"


def search_texts(index: SearchesTexts, options: SearchConfig) -> None:
    """Print the nearest texts of each query, with ids if ``search.file`` has some.

    ``search.output`` is written when all queries are answered.

    Args:
        index: the collection.
        options: section of the config; its `run` is the caller's part.

    Raises:
        UserError: a file that is missing or empty.
    """
    ids = read_documents(options.file).ids if options.file else {}
    answers: list[dict[str, Any]] = []
    print(f"{len(index)} texts indexed")  # noqa: T201
    size = BLOCK if options.queries else 1  # what is typed is answered at once
    asked = iter(queries_of(options))
    while part := list(islice(asked, size)):
        for query, hits in zip(part, index.search(part, options.k, options.threshold), strict=True):
            print(f"\n{query}")  # noqa: T201
            rows = [
                {"ids": ids.get(hit.text, []), "score": hit.score, "text": hit.text} for hit in hits
            ]
            answers.append({"query": query, "hits": rows})
            for hit in hits:
                names = ", ".join(ids.get(hit.text, []))
                print(f"  {hit.score:6.3f}  {f'[{names}] ' if names else ''}{hit.text}")  # noqa: T201
            if not hits:
                name = "cosine" if index.metric == "cosine" else "score"
                print(f"  no text has a {name} of {options.threshold} or more")  # noqa: T201
    save_answers(options, answers)


def save_answers(options: SearchConfig, answers: Sequence[dict[str, Any]]) -> None:
    """Write queries with their hits to ``search.output``, if one is given.

    Args:
        options: section of the config.
        answers: ``{"query": ..., "hits": [{"ids": [...], "score": ..., "text": ...}]}`` each.
    """
    if options.output is not None:
        path = Path(options.output).expanduser()
        write_jsonl(path, answers)
        print(f"{len(answers)} queries with their hits: {path}")  # noqa: T201


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
        index = make(encoder, _announced(options.file) if options.file else texts(), **settings)
        added = len(index)
    else:
        owner = {name: value for name, value in settings.items() if name != "metric"}
        index = make.open(kept, encoder, model_key(), **owner)
        added = index.extend(_announced(options.file)) if options.file else 0
        print(f"{kept}: opened, {added} texts added")  # noqa: T201
    if kept is not None and added:
        index.save(kept, model_key())
    return index


def read_texts(place: str | Path) -> list[str]:
    """Texts of a file, one a line, or of a folder, see `SearchConfig.file`.

    Raises:
        UserError: nothing is there, no text in it, or a file that is not UTF-8.
    """
    return [text for _, text in _rows(place) if text]


def read_documents(place: str | Path) -> Documents:
    """The same, each text once, with the ids of documents in the BEIR layout.

    Raises:
        UserError: see `read_texts`.
    """
    rows = _rows(place)
    names: dict[str, list[str]] = {}
    for name, text in rows:
        if text:
            names.setdefault(text, []).extend([] if name is None else [name])
    ids = {text: documents for text, documents in names.items() if documents}
    return Documents(list(names), ids, len(rows), sum(not text for _, text in rows))


def _announced(place: str | Path) -> list[str]:
    documents = read_documents(place)
    if len(documents.texts) < documents.num_rows:
        print(f"{place}: {documents.summary}")  # noqa: T201
    return documents.texts


def _rows(place: str | Path) -> list[tuple[str | None, str]]:
    """(id, text) of every row; blank lines of a file divide texts and are not rows."""
    path = Path(place).expanduser()
    rows: list[tuple[str | None, str]]
    if path.is_dir() and has_corpus(path):
        rows = [(name, text.strip()) for name, text in load_corpus(path).items()]
    elif path.is_dir():
        rows = [(None, text.strip()) for text in _paragraphs(path)]
    elif path.is_file():
        rows = [(None, line.strip()) for line in _lines(path) if line.strip()]
    else:
        raise UserError(f"text file {path} does not exist")
    if not any(text for _, text in rows):
        raise UserError(f"{path} has no text")
    return rows


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

"""Reader for retrieval sets in the BEIR layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.retrieval import corpus_file
from common.data.retrieval.beir import (
    CORPUS,
    QUERIES,
    by_id,
    check_judged,
    json_rows,
    judgements,
    read_documents,
    read_queries,
)
from common.data.retrieval.corpus_file import CorpusFile, names_of, texts_of

NAMED = 5  # documents of a message


@dataclass(frozen=True)
class RetrievalSet:
    """A collection with judged queries; documents are ``title + " " + text``.

    A large collection stays in its file, see `CorpusFile`.

    Judgements may name a few documents that the collection does not hold (BEIR's ArguAna has such):
    nothing retrieves them, but they count as relevant, as in trec_eval.
    """

    corpus: Mapping[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    cut_from: tuple[int, int] | None = None  # queries and documents before limits; None: whole
    num_unjudged: int = 0  # queries of the file that have no judgement and are not asked

    def relevant(self, query: str) -> list[str]:
        """Documents of the collection that are relevant for a query."""
        return [d for d, g in self.qrels[query].items() if g > 0 and d in self.corpus]

    def gaps(self) -> tuple[dict[str, float], str]:
        """What of the files is not judged.

        Returns:
            ``num_unjudged_queries`` and ``num_empty_documents`` where they are not zero, and a
            sentence that names some of the documents; empty without any.
        """
        rows = zip(names_of(self.corpus), texts_of(self.corpus), strict=True)
        empty = [name for name, text in rows if not text.strip()]
        counts = {"unjudged_queries": self.num_unjudged, "empty_documents": len(empty)}
        named = ", ".join(empty[:NAMED]) + (", ..." if len(empty) > NAMED else "")
        parts = [f"queries without a judgement, which are not asked: {self.num_unjudged}"]
        parts = parts if self.num_unjudged else []
        parts += [f"documents without title and text: {len(empty)} ({named})"] if empty else []
        return {f"num_{name}": float(n) for name, n in counts.items() if n}, "; ".join(parts)


def load_beir(folder: Path, split: str | None = None, queries_file: str = QUERIES) -> RetrievalSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` (each also ``.gz``) and the judgements.

    Args:
        folder: holds the files.
        split: name of ``qrels/<split>.tsv``; ``None`` reads ``qrels.tsv``.
        queries_file: another file of queries, such as one in another language.

    Returns:
        The collection; only queries with a judgement are kept.

    Raises:
        UserError: a file is missing or broken, has two texts of one id, or a query without one, or
            a judgement names an unknown query, or one in twenty an unknown document.
    """
    corpus, queries = load_corpus(folder), read_queries(folder, queries_file)
    path = folder / ("qrels.tsv" if split is None else f"qrels/{split}.tsv")
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in judgements(path):
        qrels.setdefault(query, {})[document] = grade
    check_judged(path, qrels, queries, corpus, "they count as not retrieved")
    asked = {q: t for q, t in queries.items() if q in qrels}
    return RetrievalSet(corpus, asked, qrels, num_unjudged=len(queries) - len(asked))


def load_corpus(folder: Path) -> Mapping[str, str]:
    """Id -> ``title + " " + text`` of ``corpus.jsonl`` (or ``.gz``).

    Raises:
        UserError: the file is missing or broken, or has two texts of one id.
    """
    return _on_disk(folder) or read_documents(folder)


def load_titles(folder: Path) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Titles and texts of ``corpus.jsonl`` (or ``.gz``) by id, apart.

    Raises:
        UserError: the file is missing or broken, or has two titles or texts of one id.
    """
    if (file := _on_disk(folder)) is not None:
        return file.with_field(_title), file.with_field(_text)
    rows = [(str(r["_id"]), _title(r), _text(r)) for r in json_rows(folder, CORPUS)]
    path = folder / CORPUS
    titles = by_id(((i, title) for i, title, _ in rows), path)
    return titles, by_id(((i, text) for i, _, text in rows), path)


def _on_disk(folder: Path) -> CorpusFile | None:
    """The corpus of a folder if its file is a large one."""
    path = folder / CORPUS
    large = path.is_file() and path.stat().st_size >= corpus_file.ON_DISK_FROM_BYTES
    return CorpusFile(path) if large else None


def _title(row: Mapping[str, Any]) -> str:
    return row.get("title") or ""


def _text(row: Mapping[str, Any]) -> str:
    return row.get("text") or ""


def has_corpus(folder: Path) -> bool:
    """Whether a folder holds documents in the BEIR layout."""
    return any((folder / name).is_file() for name in (CORPUS, f"{CORPUS}.gz"))

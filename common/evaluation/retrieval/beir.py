"""Reader for retrieval sets in the BEIR layout."""

import csv
import gzip
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading

_log = logging.getLogger(__name__)

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
ABSENT = 0.05  # share of judgements of unknown documents from which the files don't belong together


@dataclass(frozen=True)
class RetrievalSet:
    """A collection with judged queries; documents are ``title + " " + text``.

    Judgements may name a few documents that the collection does not hold (BEIR's ArguAna has such):
    nothing retrieves them, but they count as relevant, as in trec_eval.
    """

    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    def relevant(self, query: str) -> list[str]:
        """Documents of the collection that are relevant for a query."""
        return [d for d, g in self.qrels[query].items() if g > 0 and d in self.corpus]


def load_beir(folder: Path, split: str | None = None, queries_file: str = QUERIES) -> RetrievalSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` (each also ``.gz``) and the judgements.

    Args:
        folder: holds the files.
        split: name of ``qrels/<split>.tsv``; ``None`` reads ``qrels.tsv``.
        queries_file: another file of queries, such as one in another language.

    Returns:
        The collection; only queries with a judgement are kept.

    Raises:
        UserError: a file is missing or broken, has two texts of one id, or a judgement names an unknown
            query, or one in twenty an unknown document.
    """
    corpus = load_corpus(folder)
    asking = ((str(row["_id"]), str(row["text"])) for row in _rows(folder, queries_file))
    queries = _by_id(asking, folder / queries_file)
    path = folder / ("qrels.tsv" if split is None else f"qrels/{split}.tsv")
    qrels = _read_qrels(path)
    if asked := [q for q in qrels if q not in queries]:
        raise UserError(f"{path} judges query {asked[0]!r}, which the collection does not hold")
    unknown = [d for grades in qrels.values() for d in grades if d not in corpus]
    if len(unknown) > ABSENT * sum(len(grades) for grades in qrels.values()):
        raise UserError(
            f"{path} judges document {unknown[0]!r} and {len(unknown) - 1} others, which the collection does not hold"
        )
    if unknown:
        _log.warning(
            "%s judges %d documents that the collection does not hold, such as %s: they count as not retrieved",
            path, len(unknown), unknown[0],
        )  # fmt: skip
    return RetrievalSet(corpus, {q: t for q, t in queries.items() if q in qrels}, qrels)


def load_corpus(folder: Path) -> dict[str, str]:
    """Id -> ``title + " " + text`` of ``corpus.jsonl`` (or ``.gz``).

    Raises:
        UserError: the file is missing or broken, or has two texts of one id.
    """
    texts = (
        (str(row["_id"]), f"{row.get('title') or ''} {row.get('text') or ''}".strip())
        for row in _rows(folder, CORPUS)
    )
    return _by_id(texts, folder / CORPUS)


def load_titles(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Titles and texts of ``corpus.jsonl`` (or ``.gz``) by id, apart.

    Raises:
        UserError: the file is missing or broken.
    """
    rows = [
        (str(r["_id"]), r.get("title") or "", r.get("text") or "") for r in _rows(folder, CORPUS)
    ]
    return {i: title for i, title, _ in rows}, {i: text for i, _, text in rows}


def has_corpus(folder: Path) -> bool:
    """Whether a folder holds documents in the BEIR layout."""
    return any((folder / name).is_file() for name in (CORPUS, f"{CORPUS}.gz"))


def _by_id(rows: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, text in rows:
        if texts.setdefault(name, text) != text:
            raise UserError(f"{path} has two texts of the id {name!r}")
    return texts


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    if not path.is_file():
        raise UserError(
            f"{path} is missing: tab-separated judgements, header 'query-id corpus-id score'"
        )
    qrels: dict[str, dict[str, int]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = next(reader, [])
        if header != ["query-id", "corpus-id", "score"]:
            raise UserError(
                f"{path}: the header must be query-id, corpus-id, score (tabs), got {header}"
            )
        for number, row in enumerate(reader, start=2):
            try:
                query, document, score = row
                qrels.setdefault(query, {})[document] = int(score)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: expected three fields, the last an integer, got {row}"
                ) from None
    if not qrels:
        raise UserError(f"{path} holds no judgement")
    return qrels


def _rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise UserError(
            f"{plain} (or {packed.name}) is missing: one JSON object a line with _id and text"
        )
    open_text = gzip.open if path is packed else open
    with reading(path, "text file"), open_text(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                missing = {"_id", "text"} - row.keys()
            except (json.JSONDecodeError, AttributeError):
                raise UserError(f"{path}, line {number} is not a JSON object") from None
            if missing:
                raise UserError(f"{path}, line {number} lacks {', '.join(sorted(missing))}")
            yield row

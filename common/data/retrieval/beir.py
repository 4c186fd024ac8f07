"""Files of the BEIR layout: corpus, queries and judgements."""

import csv
import gzip
import json
import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from common.config import UserError
from common.damage import reading

_log = logging.getLogger(__name__)

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
ABSENT = 0.05  # share of judgements of unknown documents from which the files don't belong together


def json_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """Rows of a file of a folder, or of the same with ``.gz``; each has ``_id`` and ``text``.

    Raises:
        UserError: the file is missing or broken.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise UserError(
            f"{plain} (or {packed.name}) is missing: one JSON object per line with _id and text"
        )
    open_text = gzip.open if path is packed else open
    with reading(path, "text file"), open_text(path, "rt", encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            yield json_row(line, f"{path}, line {number}")


def json_row(line: str, where: str) -> dict[str, Any]:
    """One line of such a file.

    Raises:
        UserError: it is no object with ``_id`` and ``text``; `where` begins the message.
    """
    try:
        row: dict[str, Any] = json.loads(line)
        missing = {"_id", "text"} - row.keys()
    except (json.JSONDecodeError, AttributeError, RecursionError):
        raise UserError(f"{where} is not a JSON object") from None
    if missing:
        raise UserError(f"{where} lacks {', '.join(sorted(missing))}")
    return row


def document_text(row: Mapping[str, Any]) -> str:
    """``title + " " + text``, as BEIR gives a document to an encoder; either may be null."""
    return f"{row.get('title') or ''} {row.get('text') or ''}".strip()


def read_documents(folder: Path, ids: Container[str] | None = None) -> dict[str, str]:
    """Id -> ``title + " " + text`` of ``corpus.jsonl`` (or ``.gz``).

    Args:
        folder: holds the file.
        ids: those that are kept; None: all.

    Raises:
        UserError: the file is missing or broken, or has two texts of one id.
    """
    named = ((str(row["_id"]), row) for row in json_rows(folder, CORPUS))
    kept = ((i, document_text(row)) for i, row in named if ids is None or i in ids)
    return by_id(kept, folder / CORPUS)


def read_queries(
    folder: Path, name: str = QUERIES, ids: Container[str] | None = None
) -> dict[str, str]:
    """Id -> text of ``queries.jsonl`` (or ``.gz``), or of another file of queries.

    Args:
        folder: holds the file.
        name: of the file.
        ids: those that are kept; None: all.

    Raises:
        UserError: the file is missing or broken, or has two texts of one id, or null.
    """
    path, texts = folder / name, []
    for row in json_rows(folder, name):
        query = str(row["_id"])
        if ids is not None and query not in ids:
            continue
        if row["text"] is None:
            raise UserError(f"{path}: the query {query!r} has no text")
        texts.append((query, str(row["text"])))
    return by_id(texts, path)


def by_id(rows: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    """Texts by id.

    Raises:
        UserError: two texts of one id; `path` is named.
    """
    texts: dict[str, str] = {}
    for name, text in rows:
        if texts.setdefault(name, text) != text:
            raise UserError(f"{path} has two texts of the id {name!r}")
    return texts


def judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """Query, document and grade of every line of a table of judgements.

    Raises:
        UserError: the file is missing, broken or empty.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: tab-separated judgements, header 'query-id corpus-id score'"
        )
    number = 1
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
                grade = int(score)
            except ValueError:
                raise UserError(
                    f"{path}, line {number}: expected three fields, the last an integer, got {row}"
                ) from None
            yield query, document, grade
    if number == 1:
        raise UserError(f"{path} has no judgement")


def check_judged(
    path: Path,
    judged: Mapping[str, Iterable[str]],
    queries: Container[str],
    documents: Container[str],
    then: str,
) -> None:
    """Warn of a few judged documents that a collection does not hold; BEIR's ArguAna has such.

    Args:
        path: of the judgements, for messages.
        judged: documents of each query.
        queries: those that the collection holds.
        documents: those that it holds.
        then: what is made of the few.

    Raises:
        UserError: a judgement names an unknown query, or one in twenty an unknown document.
    """
    if asked := [q for q in judged if q not in queries]:
        raise UserError(f"{path} judges query {asked[0]!r}, which the collection does not hold")
    pairs = [d for graded in judged.values() for d in graded]
    unknown = [d for d in pairs if d not in documents]
    if len(unknown) > ABSENT * len(pairs):
        raise UserError(
            f"{path} judges document {unknown[0]!r} and {len(unknown) - 1} others, which the"
            " collection does not hold"
        )
    if unknown:
        _log.warning(
            "%s judges %d documents that the collection does not hold, such as %s: %s",
            path,
            len(unknown),
            unknown[0],
            then,
        )

"""The bundled English text that the small models read: single sentences and whole chapters."""

from collections.abc import Sequence
from pathlib import Path

from common.data.lookup import bundled
from common.data.splits import Split, book_split, sentence_split
from common.data.tables import read_jsonl


def sentences(
    root: Path | None, split: Split, *, sources: Sequence[str] = (), limit: int | None = None
) -> list[str]:
    """Sentences of one side of the fixed split.

    Args:
        root: data folder of the config.
        split: 95 % of the sentences by hash are train.
        sources: which of book, wiki and tatoeba; empty for all.
        limit: read only the first ones.
    """
    path = bundled("sentences-en/sentences.jsonl.gz", root)
    rows = read_jsonl(path, ("text", "source"))[:limit]
    return [
        row["text"]
        for row in rows
        if (not sources or row["source"] in sources) and sentence_split(row["text"]) == split
    ]


def chapters(
    root: Path | None, split: Split, *, joint: str = " ", limit: int | None = None
) -> list[str]:
    """Chapters of one side of the fixed split; the last fifth of every book is held back.

    Args:
        root: data folder of the config.
        split: train or test chapters.
        joint: what stands between two paragraphs.
        limit: at most this many chapters.
    """
    rows = read_jsonl(bundled("books-en/chapters.jsonl.gz", root), ("book", "paragraphs"))
    splits = book_split([row["book"] for row in rows])
    found = [
        joint.join(row["paragraphs"]) for row, s in zip(rows, splits, strict=True) if s == split
    ]
    return found[:limit]

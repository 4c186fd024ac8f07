"""The bundled English text that the small models read: single sentences and whole chapters."""

import re
from collections.abc import Sequence
from pathlib import Path

from common.data.lookup import bundled
from common.data.splits import Split, book_split, sentence_split
from common.data.tables import read_jsonl

EVALUATED = (
    "nli/pairs-test",
    "nli/triplets-test",
    "stsb/en-dev",
    "stsb/en-test",
    "sts-years/sts12",
    "sts-years/sts13",
    "sts-years/sts14",
)
TEXT_COLUMNS = (
    "premise",
    "hypothesis",
    "entailment",
    "contradiction",
    "neutral",
    "sentence1",
    "sentence2",
)


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


def inference_sentences(root: Path | None, split: Split, *, limit: int | None = None) -> list[str]:
    """Single sentences of the training part of `nli`, without pairs or labels.

    A sentence whose words are those of one in an evaluation set (`EVALUATED`) is left out, as
    ``scripts/prepare_data.py`` does for `sentences-en`.

    Args:
        root: data folder of the config.
        split: 95 % of the sentences by hash are train.
        limit: only the first ones.
    """
    held = {_words(text) for name in EVALUATED for text in _texts(name, root)}
    texts = dict.fromkeys(
        text for name in ("nli/triplets-train", "nli/pairs-train") for text in _texts(name, root)
    )
    kept = [t for t in texts if sentence_split(t) == split and _words(t) not in held]
    return kept[:limit]


def _texts(name: str, root: Path | None) -> list[str]:
    rows = read_jsonl(bundled(f"{name}.jsonl.gz", root), ())
    return [row[column] for row in rows for column in TEXT_COLUMNS if row.get(column)]


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))

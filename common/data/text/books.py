"""Books as chapters of sentences."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from common.config import UserError
from common.damage import reading
from common.data.lookup import bundled
from common.data.splits import book_split
from common.data.tables import read_jsonl

_END = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*\s+(?=[\"'\u2018\u201c(\[]*[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s\"'\u2018\u201c(])(?:Mr|Mrs|Ms|Messrs|Dr|St|Prof|Rev|Col|Capt|Gen|Lieut|Sir|Mme|Mlle"
    r"|M|No|vol|p|pp|cf|viz|i\.e|e\.g|[A-Z])\.$"
)


Part = Literal["train", "dev", "test"]

CHAPTERS = "chapters.jsonl.gz"
DEV_FRACTION = 0.1  # of each book's training chapters, the last ones


@dataclass(frozen=True)
class Chapter:
    """A chapter as its sentences and paragraphs, in reading order."""

    book: str
    name: str
    sentences: list[str]
    paragraphs: list[str] = field(default_factory=list)


def load_books(root: str | None, part: Part) -> list[Chapter]:
    """Chapters of the bundled ``books-en``: the last fifth of every book is the test part.

    Of the other chapters the last tenth (at least one) is the development part.

    Raises:
        UserError: the file is missing.
    """
    rows = read_jsonl(bundled("books-en", root) / CHAPTERS, ("book", "chapter", "paragraphs"))
    sides = book_split([row["book"] for row in rows])
    train = [row for row, side in zip(rows, sides, strict=True) if side == "train"]
    inner = book_split([row["book"] for row in train], 1 - DEV_FRACTION)
    chosen = {
        "train": [row for row, side in zip(train, inner, strict=True) if side == "train"],
        "dev": [row for row, side in zip(train, inner, strict=True) if side == "test"],
        "test": [row for row, side in zip(rows, sides, strict=True) if side == "test"],
    }[part]
    return [_chapter(row["book"], row["chapter"], row["paragraphs"]) for row in chosen]


def halves(chapters: Sequence[Chapter]) -> tuple[list[Chapter], list[Chapter]]:
    """Chapters for the generator and chapters for the ranker, every other one of a book.

    Of documents in one piece every other document goes to each side.
    """
    position: dict[str, int] = {}
    sides: tuple[list[Chapter], list[Chapter]] = ([], [])
    for chapter in chapters:
        key = chapter.book if chapter.name else ""
        position[key] = position.get(key, -1) + 1
        sides[position[key] % 2].append(chapter)
    return sides


def _chapter(book: str, name: str, paragraphs: Sequence[str]) -> Chapter:
    sentences = [s for p in paragraphs for s in split_sentences(p)]
    return Chapter(book, name, sentences, list(paragraphs))


def split_sentences(text: str) -> list[str]:
    """Sentences of a paragraph by punctuation, closing quotes and a following capital.

    Titles and initials before a full stop do not end a sentence; white space is collapsed.

    >>> split_sentences("Mr. Bennet replied that he had not.  Why?")
    ['Mr. Bennet replied that he had not.', 'Why?']
    """
    text = " ".join(text.split())
    sentences, begin = [], 0
    for match in _END.finditer(text):
        head = text[begin : match.end()].rstrip()
        if _ABBREVIATION.search(head):
            continue
        sentences.append(head)
        begin = match.end()
    return [*sentences, text[begin:]] if begin < len(text) else sentences


def read_book_folder(folder: Path) -> Iterator[Chapter]:
    """One document per ``.txt`` file (PG19's layout), in the order of their names, one at a time.

    Paragraphs are separated by blank lines.

    Raises:
        UserError: no such folder, no text files in it, or one that is not in UTF-8.
    """
    paths = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"{folder} has no books: expected one .txt file per document, as in PG19's train, "
            "validation and test folders (github.com/google-deepmind/pg19, 11 GB)"
        )
    for path in paths:
        with reading(path, "text file in UTF-8"):
            text = path.read_text(encoding="utf-8")
        yield _chapter(path.stem, "", re.split(r"\n\s*\n", text))

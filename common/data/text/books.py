"""Books as sentences, and windows of a prefix with the text that follows it.

Source: Krishna et al. 2022, "RankGen", section 3.1 and appendix A, arXiv 2205.09726, and the
released code (which sentences a limit lets in).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from common.config import UserError
from common.damage import reading
from common.data.lookup import bundled
from common.data.samplers import sample_rng
from common.data.splits import book_split, stable_fraction
from common.data.tables import read_jsonl

Part = Literal["train", "dev", "test"]

CHAPTERS = "chapters.jsonl.gz"
DEV_FRACTION = 0.1  # of each book's training chapters, the last ones
_LENGTH_STREAM = 61
_END = re.compile(r"[.!?\u2026][\"'\u2019\u201d)\]]*\s+(?=[\"'\u2018\u201c(\[]*[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s\"'\u2018\u201c(])(?:Mr|Mrs|Ms|Messrs|Dr|St|Prof|Rev|Col|Capt|Gen|Lieut|Sir|Mme|Mlle"
    r"|M|No|vol|p|pp|cf|viz|i\.e|e\.g|[A-Z])\.$"
)


@dataclass(frozen=True)
class Chapter:
    """A chapter as its sentences and paragraphs, in reading order."""

    book: str
    name: str
    sentences: list[str]
    paragraphs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Window:
    """A prefix and the text right after it, both made of whole sentences."""

    book: str
    chapter: str
    start: int  # sentence at which the continuation begins
    prefix: str
    continuation: str


def split_sentences(text: str) -> list[str]:
    """Sentences of a paragraph by punctuation, closing quotes and a following capital.

    Titles and initials before a full stop do not end a sentence; white space is collapsed.

    >>> split_sentences("Mr. Bennet replied that he had not.  Why?")
    ['Mr. Bennet replied that he had not.', 'Why?']
    """
    text = " ".join(text.split())
    found, begin = [], 0
    for match in _END.finditer(text):
        head = text[begin : match.end()].rstrip()
        if _ABBREVIATION.search(head):
            continue
        found.append(head)
        begin = match.end()
    return [*found, text[begin:]] if begin < len(text) else found


def extend(
    lengths: Sequence[int],
    start: int,
    limit: int,
    direction: Literal["prefix", "suffix"],
    *,
    exceed: bool = False,
) -> int:
    """Last sentence that joins `start` when sentences are added one by one up to a word limit.

    Args:
        lengths: words of each sentence.
        start: the first sentence, which always belongs to it.
        limit: words in all.
        direction: "prefix" adds sentences before `start`, "suffix" those after it.
        exceed: stop after the sentence that reaches the limit instead of before the one that would
            go beyond it.

    Returns:
        Index of the sentence that was added last.

    >>> extend([5, 12, 7, 20], 3, 30, "prefix"), extend([5, 12, 7, 20], 3, 30, "prefix", exceed=True)
    (2, 1)
    """
    step = -1 if direction == "prefix" else 1
    total, place = lengths[start], start
    while 0 <= place + step < len(lengths):
        longer = total + lengths[place + step]
        if total >= limit or (longer > limit and not exceed):
            break
        total, place = longer, place + step
    return place


def chapter_windows(
    chapter: Chapter,
    *,
    prefix_words: int = 256,
    min_words: int = 10,
    max_words: int = 128,
    overlap: bool = False,
    seed: int = 0,
) -> list[Window]:
    """All windows of a chapter whose prefix is as long as whole sentences allow.

    A prefix ends at a sentence boundary and reaches back as far as `prefix_words` permits; windows
    at the beginning of a chapter, where there are too few sentences for that, are left out. The
    continuation begins with the next sentence; among the numbers of sentences that make
    `min_words` to `max_words` words one is drawn.

    Args:
        chapter: its sentences.
        prefix_words: most words of a prefix.
        min_words: least words of a continuation.
        max_words: most words of a continuation.
        overlap: a window at every sentence boundary; False: the next continuation begins where the
            last one has ended.
        seed: of the draw, which depends on the chapter and the place besides.
    """
    lengths = [len(s.split()) for s in chapter.sentences]
    key = int(stable_fraction(f"{chapter.book}/{chapter.name}") * 2**31)
    found, start = [], 1
    while start < len(lengths):
        first = extend(lengths, start - 1, prefix_words, "prefix")
        full = first > 0 and sum(lengths[first:start]) <= prefix_words
        ends = _ends(lengths, start, min_words, max_words) if full else []
        if not ends:
            start += 1
            continue
        end = ends[int(sample_rng(seed, key, start, _LENGTH_STREAM).integers(len(ends)))]
        prefix, text = chapter.sentences[first:start], chapter.sentences[start:end]
        found.append(Window(chapter.book, chapter.name, start, " ".join(prefix), " ".join(text)))
        start = start + 1 if overlap else end
    return found


def _ends(lengths: Sequence[int], start: int, least: int, most: int) -> list[int]:
    """Ends of the runs of sentences from `start` on that have `least` to `most` words."""
    totals = np.cumsum(lengths[start : start + most])
    return [start + i + 1 for i, total in enumerate(totals) if least <= total <= most]


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


def read_book_folder(folder: Path) -> Iterator[Chapter]:
    """One document per ``.txt`` file (PG19's layout), in the order of their names, one at a time.

    Paragraphs are separated by blank lines.

    Raises:
        UserError: no such folder, no text files in it, or one that is not in UTF-8.
    """
    paths = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"{folder} holds no books: expected one .txt file per document, as in PG19's train, "
            "validation and test folders (github.com/google-deepmind/pg19, 11 GB)"
        )
    for path in paths:
        with reading(path, "text file in UTF-8"):
            text = path.read_text(encoding="utf-8")
        yield _chapter(path.stem, "", re.split(r"\n\s*\n", text))


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

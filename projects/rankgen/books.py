"""Windows of a book: a prefix with the text that follows it.

Source: Krishna et al. 2022, "RankGen", section 3.1 and appendix A, arXiv 2205.09726, and the
released code (which sentences a limit lets in).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.data.samplers import sample_rng
from common.data.splits import stable_fraction
from common.data.text.books import Chapter

_LENGTH_STREAM = 61


@dataclass(frozen=True)
class Window:
    """A prefix and the text right after it, both made of whole sentences."""

    book: str
    chapter: str
    start: int  # sentence at which the continuation begins
    prefix: str
    continuation: str


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

    >>> sizes = [5, 12, 7, 20]
    >>> extend(sizes, 3, 30, "prefix"), extend(sizes, 3, 30, "prefix", exceed=True)
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
    windows, start = [], 1
    while start < len(lengths):
        first = extend(lengths, start - 1, prefix_words, "prefix")
        full = first > 0 and sum(lengths[first:start]) <= prefix_words
        ends = _ends(lengths, start, min_words, max_words) if full else []
        if not ends:
            start += 1
            continue
        end = ends[int(sample_rng(seed, key, start, _LENGTH_STREAM).integers(len(ends)))]
        prefix, text = chapter.sentences[first:start], chapter.sentences[start:end]
        windows.append(Window(chapter.book, chapter.name, start, " ".join(prefix), " ".join(text)))
        start = start + 1 if overlap else end
    return windows


def _ends(lengths: Sequence[int], start: int, least: int, most: int) -> list[int]:
    """Ends of the runs of sentences from `start` on that have `least` to `most` words."""
    totals = np.cumsum(lengths[start : start + most])
    return [start + i + 1 for i, total in enumerate(totals) if least <= total <= most]

"""The fixed splits of the bundled sets: functions of the content, never of order or process.

Related items (skin-tone variants of an emoji, numbered variants of a drawing, chapters of a book)
share a key or a block, so that none of them is on both sides.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "test"]


def stable_fraction(key: str) -> float:
    """Hash of a text as a number in [0, 1): equal on every machine and in every process.

    >>> round(stable_fraction("red"), 6)
    0.054338
    """
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def book_split(books: Sequence[str], train_fraction: float = 0.8) -> list[Split]:
    """Chapters by position: the last fifth of every book is held back.

    Args:
        books: book of every chapter, in reading order within a book.
        train_fraction: share of each book's chapters, rounded down but at least one.

    Returns:
        One split name for each chapter.
    """
    total, position = Counter(books), defaultdict[str, int](int)
    splits: list[Split] = []
    for book in books:
        train = max(1, int(total[book] * train_fraction))
        splits.append("train" if position[book] < train else "test")
        position[book] += 1
    return splits


def emoji_split(base: str) -> Split:
    """Emoji by hash of the base emoji (without skin tone), 80/20."""
    return _hashed(base, 0.8)


def clipart_key(title: str) -> str:
    """Title without digits and without its last word: what variants of one drawing share.

    A title of one word keeps it, since nothing would be left.

    >>> clipart_key("hdd unmount2"), clipart_key("bar0")
    ('hdd', 'bar')
    """
    words = re.sub(r"\d+", "", title).lower().split()
    return " ".join(words[:-1] or words) or title


def clipart_split(title: str) -> Split:
    """Clip art by hash of `clipart_key`, 80/20."""
    return _hashed(clipart_key(title), 0.8)


def sentence_split(text: str) -> Split:
    """Sentences by hash of the text, 95/5."""
    return _hashed(text, 0.95)


def _hashed(key: str, train_fraction: float) -> Split:
    return "train" if stable_fraction(key) < train_fraction else "test"

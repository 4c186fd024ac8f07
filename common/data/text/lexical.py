"""The surface of texts: words, edit distance and overlap in batches."""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

SurfaceKind = Literal["word_levenshtein", "char_levenshtein", "jaccard"]

_WORD = re.compile(r"\w+")
_CELLS = 1 << 22  # table cells of one block of pairs


def words(text: str) -> list[str]:
    """Lower-cased words; a text without any is split at white space.

    >>> words("It's RED, red!")
    ['it', 's', 'red', 'red']
    """
    lowered = text.lower()
    return _WORD.findall(lowered) or lowered.split()


def edit_distance(
    first: np.ndarray, first_lengths: np.ndarray, second: np.ndarray, second_lengths: np.ndarray
) -> np.ndarray:
    """Levenshtein distance of corresponding rows.

    One row of the table for all pairs at a time; the dependency within a row,
    ``d[j] = min_k<=j (t[k] + j - k)``, is a running minimum.

    Source: Wagner & Fischer 1974, algorithm X.

    Args:
        first: (P, A) integer symbols, anything beyond a row's length.
        first_lengths: (P,).
        second: (P, B) integer symbols.
        second_lengths: (P,).

    Returns:
        (P,) int64.
    """
    pairs, width = second.shape
    columns = np.arange(width + 1)
    row = np.repeat(columns[None], pairs, axis=0)
    distance = np.where(first_lengths == 0, second_lengths, 0)
    for i in range(first.shape[1]):
        kept = row[:, :-1] + (second != first[:, i, None])
        row[:, 0] = i + 1
        np.minimum(kept, row[:, 1:] + 1, out=row[:, 1:])
        row = np.minimum.accumulate(row - columns, axis=1) + columns
        ends = np.flatnonzero(first_lengths == i + 1)
        distance[ends] = row[ends, second_lengths[ends]]
    return distance


class SurfaceSimilarity:
    """Similarity in [0, 1] of pairs out of a list of texts.

    Equations, on lower-cased words or characters a and b:
        levenshtein: ``1 - Lev(a, b) / max(|a|, |b|)``
        jaccard: ``|A & B| / |A | B|`` of the word sets

    It is symmetric and 1 for equal texts. The first is at most ``min(|a|, |b|) / max(|a|, |b|)``.

    Args:
        texts: N texts.
        kind: what is compared.
    """

    def __init__(self, texts: Sequence[str], kind: SurfaceKind = "word_levenshtein") -> None:
        self.kind = kind
        vocabulary: dict[str, int] = {}
        symbols, sizes, self.word_counts = [], [0], np.empty(len(texts), dtype=np.int64)
        for i, text in enumerate(texts):
            units: Sequence[str] = words(text)
            self.word_counts[i] = len(units)
            if kind == "char_levenshtein":
                units = " ".join(units)
            elif kind == "jaccard":
                units = sorted(set(units))
            symbols += [vocabulary.setdefault(symbol, len(vocabulary)) for symbol in units]
            sizes.append(len(units))
        self._symbols = np.asarray(symbols, dtype=np.int32)
        self._offsets, self._lengths = np.cumsum(sizes), np.asarray(sizes[1:])

    def __call__(self, first: ArrayLike, second: ArrayLike) -> np.ndarray:
        """Similarity of the texts with these indices.

        Args:
            first: (P,) indices.
            second: (P,) indices.

        Returns:
            (P,) float64.
        """
        a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
        longest = np.maximum(self._lengths[a], self._lengths[b])
        order = np.argsort(-longest, kind="stable")  # a block is as wide as its first pair
        values = np.empty(len(a))
        start = 0
        while start < len(order):
            size = max(1, _CELLS // (int(longest[order[start]]) + 1) ** 2)
            block = order[start : start + size]
            values[block] = self._block(a[block], b[block])
            start += size
        return values

    def _block(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rows, columns = self._padded(a, -1), self._padded(b, -2)
        sizes = self._lengths[a], self._lengths[b]
        if self.kind == "jaccard":
            both = (rows[:, :, None] == columns[:, None, :]).sum(axis=(1, 2))
            union = sizes[0] + sizes[1] - both
            return np.where(union > 0, both / np.maximum(union, 1), 1.0)
        distance = edit_distance(rows, sizes[0], columns, sizes[1])
        similarity: np.ndarray = 1 - distance / np.maximum(np.maximum(*sizes), 1)
        return similarity

    def _padded(self, texts: np.ndarray, padding: int) -> np.ndarray:
        lengths = self._lengths[texts]
        columns = np.arange(lengths.max())
        inside = columns < lengths[:, None]
        places = np.where(inside, self._offsets[texts][:, None] + columns, 0)
        if not len(self._symbols):
            return np.empty((len(texts), 0), dtype=np.int32)
        return np.where(inside, self._symbols[places], padding)


def surface_similarity(
    first: Sequence[str], second: Sequence[str], kind: SurfaceKind = "word_levenshtein"
) -> np.ndarray:
    """Similarity of corresponding texts, (P,); see `SurfaceSimilarity`.

    >>> surface_similarity(["a red fox"], ["A blue fox ran"]).tolist()
    [0.5]
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need lists of equal length, got {len(first)} and {len(second)}")
    places = np.arange(len(first))
    return SurfaceSimilarity([*first, *second], kind)(places, places + len(first))

"""Counts of words over a collection, and what lexical models of documents make of them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from common.config import UserError

Background = Literal["df", "tf"]


@dataclass
class CorpusStatistics:
    """Counts over documents that were added one by one.

    Attributes:
        num_documents: N.
        num_words: words in all, repetitions included.
        document_frequency: word -> documents that hold it.
        term_frequency: word -> occurrences.
    """

    num_documents: int = 0
    num_words: int = 0
    document_frequency: Counter[str] = field(default_factory=Counter)
    term_frequency: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Mapping[str, int]) -> None:
        """Count one document, word -> occurrences."""
        self.num_documents += 1
        self.num_words += sum(counts.values())
        self.document_frequency.update(counts.keys())
        self.term_frequency.update(counts)

    @classmethod
    def of(cls, documents: Iterable[Mapping[str, int]]) -> "CorpusStatistics":
        """Counts over documents, each word -> occurrences.

        >>> CorpusStatistics.of([{"a": 2}, {"a": 1, "b": 1}]).mean_length
        2.0
        """
        statistics = cls()
        for counts in documents:
            statistics.add(counts)
        return statistics

    @property
    def mean_length(self) -> float:
        """Average number of words of a document."""
        return self.num_words / max(1, self.num_documents)

    def background(self, kind: Background = "df", min_count: int = 1) -> dict[str, float]:
        """P(w|C): relative document or term frequency, normalised over the words that are kept.

        Args:
            kind: "df" or "tf".
            min_count: words with fewer occurrences in the collection are left out.

        Raises:
            UserError: no word is left.
        """
        counts = self.document_frequency if kind == "df" else self.term_frequency
        kept = {w: counts[w] for w, tf in self.term_frequency.items() if tf >= min_count}
        total = sum(kept.values())
        if not total:
            raise UserError(
                f"no word of {self.num_documents} documents occurs {min_count} times: lower the "
                "least count"
            )
        return {w: n / total for w, n in kept.items()}

    @cached_property
    def _idf(self) -> dict[str, float]:
        return {w: math.log(self.num_documents / n) for w, n in self.document_frequency.items()}

    def idf(self, word: str) -> float:
        """log(N / df); of a word that the collection has not: log(N + 1)."""
        return self._idf.get(word, math.log(self.num_documents + 1))

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `from_json`."""
        return {
            "num_documents": self.num_documents,
            "num_words": self.num_words,
            "document_frequency": dict(self.document_frequency),
            "term_frequency": dict(self.term_frequency),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CorpusStatistics":
        """The counts that `to_json` gave.

        Raises:
            KeyError: a field is missing.
        """
        return cls(
            int(values["num_documents"]),
            int(values["num_words"]),
            Counter(values["document_frequency"]),
            Counter(values["term_frequency"]),
        )


def dirichlet(
    word: str, counts: Mapping[str, int], length: int, background: Mapping[str, float], mu: float
) -> float:
    """Probability of a word under a document's unigram model with Dirichlet smoothing.

    Equation: ``P(w|D) = (tf(w, D) + mu P(w|C)) / (|D| + mu)``; 0 of a word that neither holds.
    Source: Zhai & Lafferty 2004, "A study of smoothing methods for language models", equation 6.

    Args:
        word: w.
        counts: word -> occurrences in D.
        length: |D|, words of D.
        background: P(w|C).
        mu: > 0, words that the collection is worth.

    >>> background = {"a": 0.5, "b": 0.5}
    >>> tuple(dirichlet(word, {"a": 1}, 1, background, 1.0) for word in "ab")
    (0.75, 0.25)
    """
    return (counts.get(word, 0) + mu * background.get(word, 0.0)) / (length + mu)


def keep_probability(frequency: float, threshold: float = 1e-4) -> float:
    """How likely a frequent word is kept; above 1 for words that are rarer than the threshold.

    Equation: ``sqrt(t / f) + t / f``.
    Source: Mikolov et al. 2013, section 2.3, arXiv 1310.4546, in the form of the released code.

    Args:
        frequency: relative frequency f of the word, > 0.
        threshold: t, > 0.

    >>> round(keep_probability(0.01), 6)
    0.11
    """
    ratio = threshold / frequency
    return math.sqrt(ratio) + ratio

"""Pairs of word sets of a document, by the distribution that the config names."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from projects.b_prop.config import WordsConfig
from projects.b_prop.corpus_statistics import dirichlet, keep_probability
from projects.b_prop.distribution import (
    Candidates,
    WordSet,
    contrastive_distribution,
    ordered,
    sample_word_sets,
    saturate,
    term_distribution,
)
from projects.b_prop.documents import Collection, Row, Terms


class WordSampler:
    """Draws word sets for documents of a collection; everything random comes from the caller's rng.

    Source: Ma et al. 2021, "PROP", section 3.1, arXiv 2010.10137; "B-PROP", section 4,
    arXiv 2104.09791.

    Args:
        words: section of the config.
        collection: that the documents belong to.
    """

    def __init__(self, words: WordsConfig, collection: Collection) -> None:
        self.words, self.collection, self.terms = words, collection, Terms(words)
        statistics = collection.statistics
        self.background: Mapping[str, float] = {}
        if words.distribution == "unigram":
            self.background = statistics.background(words.background, words.min_count)
            self._known = list(self.background)
            self._cumulative = np.cumsum([self.background[w] for w in self._known])
            self.mu = words.mu or statistics.mean_length
        elif words.distribution in ("entropy", "subtract"):
            self.background = collection.random_distribution

    def candidates(self, row: Row, rng: Any) -> Candidates:
        """What sets of this document are drawn from; a unigram model also draws candidates."""
        kind = self.words.distribution
        if kind == "unigram":
            return self._unigram(row, rng)
        attention = self.terms.attention(row)
        values = np.array(list(attention.values()))
        saturated = saturate(values, self.words.saturation, self.words.saturation_k)
        if kind == "attention":
            kept = [i for i, word in enumerate(attention) if word.isalpha()]
            terms = list(attention)
            p = term_distribution(saturated[kept])
            return Candidates([terms[i] for i in kept], p, np.log(np.maximum(p, 1e-300)), False)
        weights = dict(zip(attention, saturated.tolist(), strict=True))
        gamma, chances = contrastive_distribution(
            weights, self.background, kind, self.words.softmax_temperature
        )
        return Candidates(
            list(gamma), np.array(list(chances.values())), np.array(list(gamma.values())), False
        )

    def pair(self, row: Row, rng: Any) -> tuple[WordSet, WordSet]:
        """One pair of a document, the more representative set first (random labels: either)."""
        return self.pairs(row, 1, rng)[0]

    def pairs(self, row: Row, count: int, rng: Any) -> list[tuple[WordSet, WordSet]]:
        """Some pairs of a document, see `pair`."""
        candidates = self.candidates(row, rng)
        drawn = sample_word_sets(candidates, count, self.words.poisson_mean, rng)
        pairs = []
        for terms in drawn:
            first, second = ordered(terms)
            if self.words.labels == "random" and rng.random() < 0.5:
                first, second = second, first
            pairs.append((self._words(first, rng), self._words(second, rng)))
        return pairs

    def _unigram(self, row: Row, rng: Any) -> Candidates:
        """Words of the document, and some of the collection, by PROP's model.

        All words of the document are candidates; those that occur fewer than `min_count` times in
        the collection have P(w|C) = 0 (the release leaves them out). A document of K words gets
        `extra_words` draws more (the release: its number of words + 100). P(w|C) sums to 1 over the
        words that are kept (the release divides by the sum over all words).
        """
        counts, words = self.terms.counts(row), self.words
        terms = dict.fromkeys(counts)
        # up to K candidates; a document that has K words gets some of the collection all the same
        missing = words.vocabulary - len(terms)
        missing = missing if missing > 0 else words.extra_words
        draws = rng.random(missing) * self._cumulative[-1]
        places = np.searchsorted(self._cumulative, draws, side="right")
        for i in np.minimum(places, len(self._known) - 1):
            terms.setdefault(self._known[i])
        length = sum(counts.values())
        likelihood = np.array(
            [dirichlet(w, counts, length, self.background, self.mu) for w in terms]
        )
        # drawing until a word passes the sub-sampling is drawing from the product
        kept = np.array([min(1.0, self._keep(w)) for w in terms])
        return Candidates(
            list(terms), term_distribution(likelihood * kept), np.log(likelihood), True
        )

    def _keep(self, word: str) -> float:
        statistics = self.collection.statistics
        count = statistics.term_frequency.get(word, 0)
        if not count:  # as for words that the release has no value for
            return 1.0
        return keep_probability(count / statistics.num_words, self.words.keep_threshold)

    def _words(self, drawn: WordSet, rng: Any) -> WordSet:
        """Stems become words again, by log(count + 1)."""
        if not self.words.stemming:
            return drawn
        terms, score = drawn
        words = []
        for term in terms:
            surfaces = self.collection.surfaces[term]
            weights = np.array([math.log(count + 1) for count in surfaces.values()])
            words.append(list(surfaces)[int(rng.choice(len(surfaces), p=weights / weights.sum()))])
        return words, score

"""Similarity of sentence pairs without a model: word overlap and TF-IDF."""

from collections.abc import Sequence

import numpy as np

from common.data.text.lexical import surface_similarity, words


def word_overlap(first: Sequence[str], second: Sequence[str]) -> list[float]:
    """Jaccard similarity of the word sets of corresponding texts, in [0, 1].

    >>> word_overlap(["a red fox"], ["A blue fox ran"])
    [0.4]
    """
    overlaps: list[float] = surface_similarity(first, second, "jaccard").tolist()
    return overlaps


def tfidf_cosine(first: Sequence[str], second: Sequence[str]) -> list[float]:
    """Cosine of corresponding texts' TF-IDF vectors of words; document frequencies of both sides.

    Smoothed idf as in scikit-learn, ``log((1 + n) / (1 + df)) + 1``.

    >>> round(tfidf_cosine(["a red fox", "a cat"], ["a red fox", "a dog"])[0], 6)
    1.0
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = TfidfVectorizer(analyzer=words).fit_transform([*first, *second])
    product = rows[: len(first)].multiply(rows[len(first) :]).sum(axis=1)
    cosines: list[float] = np.asarray(product).ravel().tolist()
    return cosines

"""An inverted index of weighted tokens, in memory; exact.

# Q queries, N documents, K results
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from common.evaluation.search import SearchResult

Vector = Mapping[int, float]  # token id -> weight
_SINGLE = 2.0**24
_GROUPS = 4  # times k: groups of documents whose maxima bound the k-th score from below


class ImpactIndex:
    """Documents by token, with the weight of each token.

        s(q, d) = sum_t q_t d_t

    Weights of 0 are left out, they contribute nothing. Sums are exact for integers below 2^53, so
    that ties are ties: they go to the lower document.

    Source: Anh & Moffat 2006, "Pruned query evaluation using pre-computed impacts", SIGIR
    (impacts); Mackenzie et al. 2021, "Wacky weights in learned sparse representations", arXiv
    2110.11540 (weights of a model).

    Args:
        vectors: of N documents; an empty one is never found.

    Raises:
        ValueError: no documents, a negative token id or weight.

    >>> index = ImpactIndex([{3: 2, 5: 1}, {3: 1}])
    >>> index.search([{3: 10, 5: 1}], k=2).scores.tolist()
    [[21.0, 10.0]]
    """

    def __init__(self, vectors: Sequence[Vector]) -> None:
        sizes = np.fromiter(map(len, vectors), np.int64, len(vectors))
        tokens = np.fromiter((t for v in vectors for t in v), np.int64, sizes.sum())
        weights = np.fromiter((w for v in vectors for w in v.values()), np.float64, sizes.sum())
        self._build(np.repeat(np.arange(len(vectors)), sizes), tokens, weights, len(vectors))

    @classmethod
    def from_postings(
        cls,
        documents: NDArray[np.integer],
        tokens: NDArray[np.integer],
        weights: NDArray[np.floating],
        num_documents: int,
    ) -> "ImpactIndex":
        """The index of (document, token, weight) triples, each pair of the first two once.

        Args:
            documents: (P,) in [0, N).
            tokens: (P,) >= 0.
            weights: (P,) >= 0.
            num_documents: N.

        Raises:
            ValueError: see `ImpactIndex`.
        """
        index = cls.__new__(cls)
        index._build(documents, tokens, weights, num_documents)
        return index

    def _build(
        self,
        documents: NDArray[np.integer],
        tokens: NDArray[np.integer],
        weights: NDArray[np.floating],
        num_documents: int,
    ) -> None:
        if not num_documents:
            raise ValueError("there is no document to index")
        if len(tokens) and (tokens.min() < 0 or weights.min() < 0):
            raise ValueError("token ids and weights must be >= 0")
        keep = np.flatnonzero(weights)
        order = keep[np.lexsort((documents[keep], tokens[keep]))]
        counts = np.bincount(tokens[order], minlength=1)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._documents = documents[order].astype(np.int64)  # what add.at takes without a copy
        self._weights = weights[order].astype(np.float32)
        self._wide = None if bool((self._weights == weights[order]).all()) else weights[order]
        self._whole = bool((weights == np.rint(weights)).all())
        self._largest = np.zeros(len(counts))  # weight of each token
        np.maximum.at(self._largest, tokens[order], weights[order])
        self._size = num_documents

    def __len__(self) -> int:
        """N."""
        return self._size

    @property
    def num_postings(self) -> int:
        """Pairs of token and document."""
        return len(self._documents)

    def document_frequency(self, token: int) -> int:
        """Documents that hold a token."""
        begin, end = self._span(token)
        return end - begin

    def scores(self, query: Vector) -> NDArray[np.floating]:
        """Scores of all documents, (N,)."""
        spans = [(*self._span(t), float(w)) for t, w in query.items() if w]
        bound = sum(w * self._largest[t] for t, w in query.items() if 0 <= t < len(self._largest))
        # whole numbers below 2^24 are exact in single precision, which is faster
        single = self._whole and bound < _SINGLE and all(w.is_integer() for *_, w in spans)
        held = self._weights if single or self._wide is None else self._wide
        scores: NDArray[np.floating] = np.zeros(self._size, np.float32 if single else np.float64)
        for begin, end, weight in spans:
            impacts = held[begin:end].astype(scores.dtype, copy=False)
            impacts = impacts if weight == 1 else impacts * scores.dtype.type(weight)
            np.add.at(scores, self._documents[begin:end], impacts)
        return scores

    def search(self, queries: Sequence[Vector], k: int) -> SearchResult:
        """The `k` best documents of every query, best first; equal scores by ascending index.

        Args:
            queries: Q weighted tokens.
            k: documents per query; all if there are fewer.

        Returns:
            Scores (Q, K) float64 and indices (Q, K); what shares no token with the query is not
            found: index -1, score 0.

        Raises:
            ValueError: no queries, or ``k < 1``.
        """
        if not queries or k < 1:
            raise ValueError(f"need queries and k >= 1, got {len(queries)} and {k}")
        k = min(k, self._size)
        scores = np.zeros((len(queries), k))
        indices = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            best, values = _best(self.scores(query), k)
            scores[row, : len(values)], indices[row, : len(values)] = values, best
        return SearchResult(torch.from_numpy(scores), torch.from_numpy(indices))

    def _span(self, token: int) -> tuple[int, int]:
        if not 0 <= token < len(self._starts) - 1:
            return 0, 0
        return int(self._starts[token]), int(self._starts[token + 1])


def _best(scores: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Indices and scores above 0, at most k, best first."""
    width = len(scores) // (_GROUPS * k)
    if width > 1:
        # k groups have a document of this score or more: so have the k best
        groups = len(scores) // width
        most = scores[: groups * width].reshape(width, groups).max(0)
        least = np.partition(most, groups - k)[groups - k]
    else:
        least = scores.dtype.type(0)
    place = np.flatnonzero(scores >= least) if least > 0 else np.flatnonzero(scores)
    values = scores[place]
    if len(place) > k:
        kth = np.partition(values, len(values) - k)[len(values) - k]
        above = np.flatnonzero(values > kth)
        tied = np.flatnonzero(values == kth)[: k - len(above)]  # the lower documents
        chosen = np.concatenate([above, tied])
        place, values = place[chosen], values[chosen]
    order = np.lexsort((place, -values))
    return place[order], values[order]

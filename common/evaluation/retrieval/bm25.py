"""BM25 baseline (Lucene's variant) by bm25s, with what its `retrieve` lacks.

`retrieve` cannot exclude documents, and its order of documents with equal scores depends on the
sorting. Here equal scores go to the lower index, so that mined negatives are reproducible.
"""

from collections.abc import Collection, Mapping, Sequence

import bm25s
import numpy as np
import torch
from torch import Tensor

from common.evaluation.matrices import Indices, blocks, fill_pairs, index_pairs
from common.evaluation.search import SearchResult, stable_topk

_DIGITS = 10  # equal scores are sums in different orders, which differ in their last bits
CELLS = 2**27  # scores of a block


class BM25:
    """Index of a collection; words are lower-cased and have at least two characters.

    Equation: ``score(q, d) = sum_{w in q} idf_w tf / (tf + k1 (1 - b + b |d| / mean |d|))``,
    ``idf_w = ln(1 + (N - df_w + 0.5) / (df_w + 0.5))``; a word that is repeated in the query
    counts each time.
    Source: Robertson & Zaragoza 2009, section 3; Kamphuis et al. 2020 (variant "Lucene").

    Args:
        documents: N texts.
        k1: >= 0, saturation of the term frequency.
        b: in [0, 1], strength of the length normalisation.
        stop_words: words that are left out, lower case.

    Raises:
        ValueError: no documents, no words in any of them, or ``k1``, ``b`` out of range.

    >>> BM25(["red fox", "blue whale"]).search(["a whale"], k=1).indices.tolist()
    [[1]]
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        stop_words: Collection[str] = (),
    ) -> None:
        self.check(k1, b)
        self._stop_words = sorted(stop_words)
        words = split_words(documents, self._stop_words)
        # by first occurrence: of lists of words bm25s makes a set, whose order changes by process
        vocabulary = {w: i for i, w in enumerate(dict.fromkeys(w for row in words for w in row))}
        if not vocabulary:
            raise ValueError("BM25 needs documents that hold at least one word")
        ids = [[vocabulary[w] for w in row] for row in words]
        self._vocabulary: Mapping[str, int] = vocabulary
        self._num_documents = len(ids)
        # float64: in float32 documents tie whose scores differ
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
        self._index.index((ids, vocabulary), create_empty_token=False, show_progress=False)

    @staticmethod
    def check(k1: float, b: float) -> None:
        """Refuse parameters out of range.

        Raises:
            ValueError: see above.
        """
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 needs k1 >= 0 and 0 <= b <= 1, got {k1} and {b}")

    @classmethod
    def of_index(
        cls,
        index: bm25s.BM25,
        vocabulary: Mapping[str, int],
        num_documents: int,
        stop_words: Collection[str],
    ) -> "BM25":
        """Around an index that exists, such as one whose arrays are memory-mapped."""
        self = cls.__new__(cls)
        self._index, self._vocabulary, self._num_documents = index, vocabulary, num_documents
        self._stop_words = sorted(stop_words)
        return self

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        exclude: Indices | None = None,
        chunk_size: int = 256,
    ) -> SearchResult:
        """Find the ``k`` best documents of every query; ties go to the lower index.

        Args:
            queries: Q texts.
            k: documents per query, at most N.
            exclude: document indices per query that must not be returned (one or a list each);
                they come last, with score ``-inf``, if ``k`` leaves no choice.
            chunk_size: queries per block, fewer of a large collection: a block has at most 2^27
                scores (1 GiB).

        Returns:
            Scores (Q, k) float64 and document indices (Q, k); documents without a common word
            score 0.

        Raises:
            ValueError: no queries or ``k`` out of range.
        """
        size = self._num_documents
        if not queries or not 1 <= k <= size:
            raise ValueError(f"need queries and k in [1, {size}], got {len(queries)} and {k}")
        without = [[]] * len(queries) if exclude is None else exclude
        excluded = index_pairs(without, len(queries), size, "exclude")
        parts = []
        for rows in blocks(len(queries), max(1, min(chunk_size, CELLS // size))):
            scores = self.scores(queries[rows])
            fill_pairs(scores, excluded, rows, slice(0, size))
            parts.append(stable_topk(scores, k))
        return SearchResult(
            torch.cat([p.scores for p in parts]), torch.cat([p.indices for p in parts])
        )

    def pair_scores(self, queries: Sequence[str], documents: Indices) -> Tensor:
        """The lowest score among some documents of every query, (Q,) float64.

        Args:
            queries: Q texts.
            documents: document indices per query, one or a list each; every query needs one.

        Raises:
            ValueError: a query without a document, or an index out of range.
        """
        pairs = index_pairs(documents, len(queries), self._num_documents, "documents")
        counts = torch.bincount(pairs[:, 0], minlength=len(queries)).tolist()
        if not all(counts):
            raise ValueError("every query needs a document")
        rows = zip(queries, torch.split(pairs[:, 1], counts), strict=True)
        return torch.stack(
            [self.scores([query])[0, rows_of_query].min() for query, rows_of_query in rows]
        )

    def scores(self, queries: Sequence[str]) -> Tensor:
        """Scores of all documents, (Q, N) float64."""
        vocabulary = self._vocabulary
        asked = split_words(queries, self._stop_words)
        rows = [[vocabulary[w] for w in words if w in vocabulary] for words in asked]
        scores = np.stack([self._index.get_scores_from_ids(row) for row in rows])
        return torch.from_numpy(scores.round(_DIGITS))


def split_words(texts: Sequence[str], stop_words: Collection[str]) -> list[list[str]]:
    """Words of texts: lower-cased, of two characters or more, without the stop words."""
    words: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords=sorted(stop_words), return_ids=False, show_progress=False
    )
    return words

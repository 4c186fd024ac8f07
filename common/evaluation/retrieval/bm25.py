"""BM25 baseline (Lucene's variant) on sparse matrices."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from common.evaluation.matrices import Indices, blocks, fill_pairs, index_pairs
from common.evaluation.search import SearchResult, stable_topk

_WORD = re.compile(r"(?u)\b\w\w+\b")


def tokenize(text: str, stop_words: Collection[str] = ()) -> list[str]:
    """Lower-case words of at least two characters.

    Args:
        text: any text.
        stop_words: words to leave out, lower case.

    >>> tokenize("The BM25 score, a baseline", {"the"})
    ['bm25', 'score', 'baseline']
    """
    return [word for word in _WORD.findall(text.lower()) if word not in stop_words]


class BM25:
    """Index of a collection; scores equal those of ``bm25s`` with ``method="lucene"``.

    Equation: ``score(q, d) = sum_{w in q} idf_w tf / (tf + k1 (1 - b + b |d| / mean |d|))``,
    ``idf_w = ln(1 + (N - df_w + 0.5) / (df_w + 0.5))``; a word that is repeated in the query
    counts each time.
    Source: Robertson & Zaragoza 2009, section 3; Kamphuis et al. 2020 (variant "Lucene").

    Args:
        documents: N texts.
        k1: >= 0, saturation of the term frequency.
        b: in [0, 1], strength of the length normalisation.
        tokenizer: text -> words.

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
        tokenizer: Callable[[str], list[str]] = tokenize,
    ) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"BM25 needs k1 >= 0 and 0 <= b <= 1, got {k1} and {b}")
        self._tokenizer = tokenizer
        counts = [Counter(tokenizer(text)) for text in documents]
        self._vocabulary = {w: i for i, w in enumerate(sorted(set().union(*counts)))}
        if not self._vocabulary:
            raise ValueError("BM25 needs documents that hold at least one word")
        tf = self._matrix(counts)
        lengths = np.asarray(tf.sum(axis=1)).ravel()
        df = np.bincount(tf.indices, minlength=len(self._vocabulary))
        idf = np.log1p((len(counts) - df + 0.5) / (df + 0.5))
        norm = k1 * (1 - b + b * lengths / lengths.mean())
        row = np.repeat(np.arange(len(counts)), np.diff(tf.indptr))
        tf.data = idf[tf.indices] * tf.data / (tf.data + norm[row])
        self._impacts = tf.T.tocsr()  # (words, documents)

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
            chunk_size: queries per block; memory is ``chunk_size * N`` scores.

        Returns:
            Scores (Q, k) float64 and document indices (Q, k); documents without a common word
            score 0.

        Raises:
            ValueError: no queries or ``k`` out of range.
        """
        num_documents = self._impacts.shape[1]
        if not queries or not 1 <= k <= num_documents:
            raise ValueError(
                f"need queries and k in [1, {num_documents}], got {len(queries)} and {k}"
            )
        excluded = index_pairs(
            [[]] * len(queries) if exclude is None else exclude,
            len(queries),
            num_documents,
            "exclude",
        )
        parts = []
        for rows in blocks(len(queries), chunk_size):
            scores = self._scores(queries[rows])
            fill_pairs(scores, excluded, rows, slice(0, num_documents))
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
        pairs = index_pairs(documents, len(queries), self._impacts.shape[1], "documents")
        if len(set(pairs[:, 0].tolist())) != len(queries):
            raise ValueError("every query needs a document")
        worst = torch.full((len(queries),), torch.inf, dtype=torch.float64)
        for rows in blocks(len(queries), 256):
            inside = (pairs[:, 0] >= rows.start) & (pairs[:, 0] < rows.stop)
            own = pairs[inside] - torch.tensor([rows.start, 0])
            score = self._scores(queries[rows])[own[:, 0], own[:, 1]]
            worst[rows] = worst[rows].scatter_reduce(0, own[:, 0], score, "amin")
        return worst

    def _scores(self, queries: Sequence[str]) -> Tensor:
        words = [Counter(self._tokenizer(text)) for text in queries]
        known = [Counter({w: n for w, n in c.items() if w in self._vocabulary}) for c in words]
        return torch.from_numpy((self._matrix(known) @ self._impacts).toarray())

    def _matrix(self, counts: Sequence[Counter[str]]) -> "sparse.csr_matrix":
        """Word counts as a (texts, words) matrix with sorted columns."""
        rows = [(self._vocabulary[w], n) for c in counts for w, n in c.items()]
        column, value = np.array(rows, dtype=np.int64).reshape(-1, 2).T
        offsets = np.cumsum([0, *map(len, counts)])
        shape = (len(counts), len(self._vocabulary))
        matrix = sparse.csr_matrix((value.astype(np.float64), column, offsets), shape=shape)
        matrix.sort_indices()
        return matrix

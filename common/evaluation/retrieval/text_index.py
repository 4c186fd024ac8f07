"""Nearest texts of a collection."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from common.evaluation.encoding import Progress, encode_texts, no_progress
from common.evaluation.matrices import Metric
from common.evaluation.search import Backend, search


class Encodes(Protocol):
    """A `SentenceEncoder`, or anything else that embeds texts in this way."""

    def encode(self, texts: Sequence[str], batch_size: int = ..., *, progress: Progress) -> Tensor:
        """N texts -> (N, D) on the CPU, model in evaluation mode."""


TextEncoder = Encodes | Callable[[list[str]], Tensor]


class Hit(NamedTuple):
    """A text that was found."""

    text: str
    score: float  # cosine, or dot product
    position: int  # in the collection


class TextIndex:
    """A collection of texts with its embeddings; exact search.

    Args:
        encoder: a `SentenceEncoder`, or a function list of B texts -> (B, D) in evaluation mode.
        texts: N texts.
        query_encoder: of the queries (another instruction, the other tower); None: the same.
        metric: "cosine", or "dot" for encoders whose vectors have a length that counts.
        batch_size: texts per pass of the encoder.
        backend: see `common.evaluation.search.search`; "auto" takes faiss where it applies.
        progress: wraps the loop over the batches of `texts`.

    Raises:
        ValueError: no texts.

    >>> index = TextIndex(lambda rows: torch.tensor([[len(r), 1.0] for r in rows]), ["a", "bbb"])
    >>> [hit.text for hit in index.search(["ccc"], k=1)[0]]
    ['bbb']
    """

    def __init__(
        self,
        encoder: TextEncoder,
        texts: Sequence[str],
        *,
        query_encoder: TextEncoder | None = None,
        metric: Metric = "cosine",
        batch_size: int = 64,
        backend: Backend = "auto",
        progress: Progress = no_progress,
    ) -> None:
        self.texts, self.metric = list(texts), metric
        self.query_encoder = encoder if query_encoder is None else query_encoder
        self.batch_size, self.backend = batch_size, backend
        self.embeddings = self._embed(encoder, self.texts, progress)

    def __len__(self) -> int:
        return len(self.texts)

    def search(
        self, queries: str | Sequence[str], k: int = 5, threshold: float | None = None
    ) -> list[list[Hit]]:
        """The `k` nearest texts of every query, best first, equal scores by ascending index.

        Args:
            queries: Q texts; a single string counts as one.
            k: most hits per query; all texts if there are fewer.
            threshold: leaves out hits with a lower score.

        Returns:
            Q lists of hits.

        Raises:
            ValueError: no queries or ``k < 1``.
        """
        queries = [queries] if isinstance(queries, str) else queries
        rows = self._embed(self.query_encoder, queries, no_progress)
        k = min(k, len(self))
        found = search(rows, self.embeddings, k, metric="dot", backend=self.backend)
        return [
            [
                Hit(self.texts[i], score, i)
                for score, i in zip(scores, indices, strict=True)
                if threshold is None or score >= threshold
            ]
            for scores, indices in zip(found.scores.tolist(), found.indices.tolist(), strict=True)
        ]

    def _embed(self, encoder: TextEncoder, texts: Sequence[str], progress: Progress) -> Tensor:
        rows = embed_texts(encoder, texts, self.batch_size, progress)
        return F.normalize(rows, dim=1) if self.metric == "cosine" else rows


def embed_texts(
    encoder: TextEncoder,
    texts: Sequence[str],
    batch_size: int = 64,
    progress: Progress = no_progress,
) -> Tensor:
    """Embed texts with an encoder of either kind (see `TextIndex`).

    Returns:
        (N, D) on the CPU, not changed in length.

    Raises:
        ValueError: no texts.
    """
    if hasattr(encoder, "encode"):
        return encoder.encode(texts, batch_size, progress=progress)
    with torch.no_grad():
        return encode_texts(encoder, texts, batch_size=batch_size, progress=progress)

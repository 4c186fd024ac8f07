"""Nearest texts of a collection, which can be stored, opened again and extended."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from common.config import UserError
from common.evaluation.encoding import Progress, encode_texts, no_progress
from common.evaluation.matrices import Metric, as_matrix, blocks, exact_math
from common.evaluation.search import Backend, SearchResult, search, stable_topk
from common.files import write_bytes


class Encodes(Protocol):
    """A `SentenceEncoder`, or anything else that embeds texts in this way."""

    def encode(self, texts: Sequence[str], batch_size: int = ..., *, progress: Progress) -> Tensor:
        """N texts -> (N, D) on the CPU, model in evaluation mode."""


INDEX = "index.safetensors"  # embeddings, texts and what they were made by, in one file
FEW = 8  # queries
SCORES = 2**24  # that are held at a time, 64 MiB
TextEncoder = Encodes | Callable[[list[str]], Tensor]


class Hit(NamedTuple):
    """A text that was found."""

    text: str
    score: float  # cosine, or dot product
    position: int  # in the collection


def hits(
    texts: Sequence[str], ranked: Iterable[tuple[int, float]], threshold: float | None
) -> list[Hit]:
    """Hits of one query from (index, score), best first, those below the threshold left out."""
    return [
        Hit(texts[i], score, i) for i, score in ranked if threshold is None or score >= threshold
    ]


def not_held(held: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The texts that an index does not hold yet, each once, in their order."""
    held_texts = set(held)
    return [text for text in dict.fromkeys(texts) if text not in held_texts]


class TextIndex:
    """A collection of texts with its embeddings; exact search.

    Args:
        encoder: a `SentenceEncoder`, or a function list of B texts -> (B, D) in evaluation mode.
        texts: N texts.
        query_encoder: of the queries (another instruction, the other tower); None: the same.
        metric: "cosine", or "dot" for encoders whose vectors have a length that counts.
        batch_size: texts per pass of the encoder.
        backend: "auto" scores all texts for a few queries at a time, without a copy of the index;
            the others are those of `common.evaluation.search.search`.
        progress: wraps the loop over the batches of `texts`.

    Raises:
        ValueError: no texts, or embeddings with NaN or infinity.

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
        self.texts, self.metric, self.encoder = list(texts), metric, encoder
        self.query_encoder = encoder if query_encoder is None else query_encoder
        self.batch_size, self.backend, self.progress = batch_size, backend, progress
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
        if k < 1:
            raise ValueError(f"k must lie in [1, {len(self)}], got {k}")
        queries = [queries] if isinstance(queries, str) else queries
        vectors = self._embed(self.query_encoder, queries, no_progress)
        nearest = self._nearest(vectors, min(k, len(self)))
        rows = zip(nearest.scores.tolist(), nearest.indices.tolist(), strict=True)
        return [hits(self.texts, zip(i, s, strict=True), threshold) for s, i in rows]

    def extend(self, texts: Sequence[str]) -> int:
        """Add the texts that the index lacks, each once; return the number of new ones."""
        new = not_held(self.texts, texts)
        if new:
            rows = self._embed(self.encoder, new, self.progress)
            self.embeddings = torch.cat([self.embeddings, rows])
            self.texts += new
        return len(new)

    def replace(self, texts: Sequence[str]) -> int:
        """Hold exactly these texts, each once; return how many had to be encoded.

        Raises:
            ValueError: no texts.
        """
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            raise ValueError("an index needs texts")
        new = self.extend(distinct)
        place = {text: i for i, text in enumerate(self.texts)}
        self.embeddings = self.embeddings[torch.tensor([place[text] for text in distinct])]
        self.texts = distinct
        return new

    def save(self, folder: str | Path, model_key: str) -> None:
        """Write the index completely or not at all; replace an older one in the folder.

        Args:
            folder: created if needed.
            model_key: names the encoder's weights, such as `weights_digest`; asked for by `open`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # as a tensor: the header of a safetensors file is limited in size
        texts = torch.frombuffer(bytearray(json.dumps(self.texts).encode()), dtype=torch.uint8)
        rows = {"embeddings": self.embeddings.contiguous(), "texts": texts}
        content = save(rows, {"model": model_key, "metric": self.metric})
        write_bytes(folder / INDEX, content)

    @classmethod
    def open(
        cls, folder: str | Path, encoder: TextEncoder, model_key: str, **options: Any
    ) -> "TextIndex":
        """The index that `save` wrote, without encoding its texts again.

        Args:
            folder: of the index.
            encoder: the one that the index was made with.
            model_key: as given to `save`.
            options: of `TextIndex`, but texts and metric.

        Raises:
            UserError: no index, a damaged one, or one of another encoder.
        """
        path = Path(folder) / INDEX
        try:
            content = path.read_bytes()
            held = load(content)
            texts: list[str] = json.loads(held["texts"].numpy().tobytes())
            size = int.from_bytes(content[:8], "little")
            about = json.loads(content[8 : 8 + size])["__metadata__"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is not a text index: {error!r}") from error
        if about["model"] != model_key:
            raise UserError(
                f"the index {folder} was made with another encoder: texts have to be encoded again,"
                " delete the folder or give another one in search.index"
            )
        index = cls.__new__(cls)
        index.texts, index.embeddings, index.metric = texts, held["embeddings"], about["metric"]
        index.encoder = encoder
        index.query_encoder = options.pop("query_encoder", None) or encoder
        index.batch_size = options.pop("batch_size", 64)
        index.backend = options.pop("backend", "auto")
        index.progress = options.pop("progress", no_progress)
        if options:
            raise TypeError(f"unknown options {sorted(options)}")
        return index

    def _nearest(self, vectors: Tensor, k: int) -> SearchResult:
        if self.backend != "auto":
            return search(vectors, self.embeddings, k, metric="dot", backend=self.backend)
        with exact_math(vectors.device):
            parts = [
                stable_topk(self._scores(vectors[rows]), k)
                for rows in blocks(len(vectors), max(1, SCORES // len(self)))
            ]
        return SearchResult(*(torch.cat(side) for side in zip(*parts, strict=True)))

    def _scores(self, vectors: Tensor) -> Tensor:
        """Dot products (B, N) of B queries with all texts."""
        count = len(vectors)
        if count > FEW:
            return vectors @ self.embeddings.T
        # measured: a tall product takes a quarter to two thirds of the time of a wide one for so
        # few, and one with two columns half of that with one
        columns = vectors.repeat(2, 1) if count == 1 else vectors
        return (self.embeddings @ columns.T).T[:count].contiguous()

    def _embed(self, encoder: TextEncoder, texts: Sequence[str], progress: Progress) -> Tensor:
        rows = as_matrix(embed_texts(encoder, texts, self.batch_size, progress), "embeddings")
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

"""A collection of texts for hybrid search, which can be stored, opened again and extended."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from common.config import UserError
from common.evaluation.encoding import Progress, no_progress
from common.evaluation.retrieval.text_index import INDEX, Hit, hits, not_held
from common.files import write_bytes
from projects.promptreps.lexical.hybrid import (
    DEPTH,
    DenseIndex,
    Encoded,
    SparseIndex,
    joined,
    search,
)

Role = Literal["query", "passage"]
EncodeBoth = Callable[..., Encoded]  # texts, role, progress=... -> representations


class HybridTextIndex:
    """Texts with dense vectors and weighted tokens; the counterpart of `TextIndex`.

    Args:
        encode: (texts, "query" or "passage", progress=...) -> representations.
        texts: N texts.
        alpha: weight of the dense scores.
        depth: documents that each of the two searches looks at.
        progress: wraps the loop over the batches of `texts`.

    Raises:
        ValueError: no texts.
    """

    metric = "hybrid"

    def __init__(
        self,
        encode: EncodeBoth,
        texts: Sequence[str],
        *,
        alpha: float = 0.5,
        depth: int = DEPTH,
        progress: Progress = no_progress,
    ) -> None:
        if not texts:
            raise ValueError("there are no texts")
        self.texts, self.encode, self.alpha, self.depth = list(texts), encode, alpha, depth
        self.progress = progress
        self.encoded = encode(self.texts, "passage", progress=progress)
        self._index()

    def __len__(self) -> int:
        return len(self.texts)

    def search(
        self, queries: str | Sequence[str], k: int = 5, threshold: float | None = None
    ) -> list[list[Hit]]:
        """The `k` best texts of every query by the fused score in [0, 1].

        Args:
            queries: Q texts; a single string counts as one.
            k: most hits per query.
            threshold: leaves out hits with a lower score.
        """
        results = []
        for text in [queries] if isinstance(queries, str) else queries:
            fused = search(
                *self._indexes, self.encode([text], "query"), self.alpha, self.depth
            ).fused
            best = ((int(i), score) for i, score in fused[:k])
            results.append(hits(self.texts, best, threshold))
        return results

    def extend(self, texts: Sequence[str]) -> int:
        """Add the texts that the index does not hold yet, each once; the number of new ones."""
        new = not_held(self.texts, texts)
        if new:
            more = self.encode(new, "passage", progress=self.progress)
            self.encoded = joined([self.encoded, more])
            self.texts += new
            self._index()
        return len(new)

    def save(self, folder: str | Path, model_key: str) -> None:
        """Write the index, whole or not at all; an older one in the folder is replaced.

        Args:
            folder: created if needed.
            model_key: names the encoder's weights and prompt; asked for by `open`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.encoded["sparse"]
        content = {
            "dense": self.encoded["dense"].contiguous(),
            "owner": self.encoded["owner"],
            "sizes": torch.tensor([len(row) for row in rows]),
            "tokens": torch.tensor([t for row in rows for t in row], dtype=torch.long),
            "weights": torch.tensor([w for row in rows for w in row.values()], dtype=torch.long),
            "texts": torch.frombuffer(
                bytearray(json.dumps(self.texts).encode()), dtype=torch.uint8
            ),
        }
        about = {"model": model_key, "metric": self.metric}
        write_bytes(folder / INDEX, save(content, about))

    @classmethod
    def open(
        cls, folder: str | Path, encode: EncodeBoth, model_key: str, **options: Any
    ) -> "HybridTextIndex":
        """The index that `save` wrote, without encoding its texts again.

        Args:
            folder: of the index.
            encode: the one that the index was made with.
            model_key: as given to `save`.
            options: of `HybridTextIndex`, but texts.

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
            pairs = iter(zip(held["tokens"].tolist(), held["weights"].tolist(), strict=True))
            sparse = [dict(next(pairs) for _ in range(n)) for n in held["sizes"].tolist()]
            encoded: Encoded = {"dense": held["dense"], "sparse": sparse, "owner": held["owner"]}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{path} is not an index for hybrid search: {error!r}") from error
        if about["model"] != model_key:
            raise UserError(
                f"the index {folder} was made with another encoder or prompt: texts have to be "
                "encoded again, delete the folder or give another one in search.index"
            )
        index = cls.__new__(cls)
        index.texts, index.encode, index.encoded = texts, encode, encoded
        index.alpha, index.depth = options.pop("alpha", 0.5), options.pop("depth", DEPTH)
        index.progress = options.pop("progress", no_progress)
        if options:
            raise TypeError(f"unknown options {sorted(options)}")
        index._index()
        return index

    def _index(self) -> None:
        ids = [str(i) for i in range(len(self.texts))]
        self._indexes = DenseIndex(self.encoded, ids), SparseIndex(self.encoded, ids)

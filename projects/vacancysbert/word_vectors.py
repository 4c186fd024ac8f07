"""Mean word vectors of a text file: the oldest encoder of short texts, as a baseline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.text.lexical import words


class WordVectors:
    """Texts as the mean of their words' vectors; a text without a known word is zero.

    Source: Bojanowski et al. 2017, "Enriching word vectors with subword information", arXiv
    1607.04606 (the file format; vectors of subwords are not in it).

    Args:
        vectors: lower-cased word -> (D,) float32.

    >>> encode = WordVectors({"red": np.float32([1, 0]), "fox": np.float32([0, 1])})
    >>> encode(["Red fox", "unknown"]).tolist()
    [[0.5, 0.5], [0.0, 0.0]]
    """

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.vectors = vectors
        self.dim = len(next(iter(vectors.values())))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, D) float32."""
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            vectors = [self.vectors[word] for word in words(text) if word in self.vectors]
            if vectors:
                row[:] = np.mean(vectors, axis=0)
        return torch.from_numpy(rows)


def read_word_vectors(path: str | Path, limit: int | None = None) -> WordVectors:
    """Vectors of a ``.vec`` file: a word and D numbers a line.

    A first line with two counts may stand.

    Args:
        path: text file.
        limit: vectors that are read at most, from the top (the frequent words); None: all.

    Raises:
        UserError: a missing file, no vector, or lines of different lengths.
    """
    path, vectors = Path(path).expanduser(), dict[str, np.ndarray]()
    if not path.is_file():
        raise UserError(f"word vectors {path} do not exist: give a .vec file, one word per line")
    width = None
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            word, *numbers = line.rstrip().split(" ")
            if number == 1 and len(numbers) == 1:
                continue  # counts of words and dimensions
            if limit is not None and len(vectors) >= limit:
                break
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: no vector: {error}") from error
            width = len(vector) if width is None else width
            if len(vector) != width or not width:
                raise UserError(f"{path}, line {number}: {len(vector)} numbers, not {width}")
            vectors.setdefault(word.lower(), vector)
    if not vectors:
        raise UserError(f"{path} has no word vector")
    return WordVectors(vectors)

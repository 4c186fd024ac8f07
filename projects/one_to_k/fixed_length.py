"""Texts as rows of token ids of one length: hashed n-grams, or any tokenizer of transformers."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_REMEMBERED = 1 << 16  # texts whose ids are kept per process


class NgramTokenizer:
    """Hashed character n-grams of a text between two blanks; needs no vocabulary and no files.

    Source: Bojanowski et al. 2017, section 3.2 (hashed character n-grams), arXiv 1607.04606.

    Args:
        num_buckets: ids are 1 ... num_buckets, 0 is padding.
        sizes: lengths n of the n-grams.
        context_length: ids per text, the rest of a longer one is cut.
    """

    mask_id: int | None = None

    def __init__(
        self, num_buckets: int, sizes: Sequence[int] = (3,), context_length: int = 64
    ) -> None:
        self.num_buckets, self.sizes = num_buckets, tuple(sizes)
        self.context_length, self.vocab_size = context_length, num_buckets + 1
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (N, context_length) int64, padded with 0.

        >>> NgramTokenizer(100, context_length=4)(["cat", "c"]).bool().tolist()
        [[True, True, True, False], [True, False, False, False]]
        """
        rows = [self._ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        out = torch.zeros(len(rows), self.context_length, dtype=torch.long)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
        return out

    def _ids(self, text: str) -> list[int]:
        if text not in self._known and len(self._known) < _REMEMBERED:
            self._known[text] = self._of(text)
        return self._known.get(text) or self._of(text)

    def _of(self, text: str) -> list[int]:
        padded = f" {text.lower()} "
        grams = [padded[i : i + n] for n in self.sizes for i in range(len(padded) - n + 1)]
        ids = [zlib.crc32(gram.encode()) % self.num_buckets + 1 for gram in grams]
        return ids[: self.context_length]


class FixedLengthTokenizer:
    """A tokenizer of transformers that pads and cuts every text to one length.

    Args:
        tokenizer: a `PreTrainedTokenizerBase`.
        context_length: ids per text, special tokens included.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer, self.context_length = tokenizer, context_length
        self.vocab_size, self.mask_id = len(tokenizer), tokenizer.mask_token_id
        self._known: dict[str, list[int]] = {}

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids (N, context_length) int64, padded with the tokenizer's padding id."""
        rows = [self._ids(text) for text in ([texts] if isinstance(texts, str) else texts)]
        return torch.from_numpy(np.array(rows, dtype=np.int64).reshape(-1, self.context_length))

    def _ids(self, text: str) -> list[int]:
        if text not in self._known and len(self._known) < _REMEMBERED:
            self._known[text] = self._of(text)
        return self._known.get(text) or self._of(text)

    def _of(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(
            text, padding="max_length", truncation=True, max_length=self.context_length
        )["input_ids"]
        return ids

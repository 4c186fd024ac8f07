"""Training batches of texts with several views each, as token ids padded to their longest row."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.samplers import Key, Rng, sample_rng
from common.encoders.text.template import plain_ids, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = Sequence[int] | np.ndarray
AugmentTokens = Callable[[list[int], Rng, int], list[int]]  # (ids, rng, view) -> ids
AugmentText = Callable[[str, Rng, int], str]  # (text, rng, view) -> text
# (ids of B texts, one rng each, view) -> ids
AugmentBatch = Callable[[Sequence[list[int]], Sequence[Rng], int], Sequence[list[int]]]

MISSING = " "  # stands for a text that is None
_FIRST_STREAM = 16  # view v draws from streams 16 + 2v (text) and 17 + 2v (tokens)
_CHUNK = 8192  # texts given to the tokenizer at once


class TextBatch(TypedDict):
    """V views of B texts, view-major: rows [v * B, (v + 1) * B) are view v."""

    input_ids: Tensor  # (V * B, L) int64, right-padded
    attention_mask: Tensor  # (V * B, L) int64
    ids: Tensor  # (B,) int64 sample indices


class TextViews(Dataset[TextBatch]):
    """Map-style training set of texts or tuples of texts that returns whole batches.

    All texts are tokenised once; a batch adds the special tokens, cuts to `max_length` and pads to
    the longest of all V * B rows, so that the views of a text see the same padding. Augmentation of
    an access depends on (seed, epoch, index, view) only.

    Args:
        rows: texts in tuples of equal length: one column (the text is repeated `views` times) or V
            columns (one per view). None stands for a missing text and is read as one space.
        tokenizer: a tokenizer of transformers with a padding token.
        max_length: longest row in tokens, special tokens included.
        seed: the experiment's seed.
        views: V; None: the number of columns.
        augment: changes the ids of a view, without special tokens and before they are cut.
        augment_text: changes the text of a view; texts are then tokenised at every access.
        augment_batch: as `augment`, for all texts of a batch at once (predictions of a model).

    Raises:
        UserError: no rows, rows of unequal length, `views` that does not fit the columns, a
            tokenizer without padding token, or `max_length` that leaves no room for a token.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str | None, ...]],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int = 32,
        seed: int = 0,
        views: int | None = None,
        augment: AugmentTokens | None = None,
        augment_text: AugmentText | None = None,
        augment_batch: AugmentBatch | None = None,
    ) -> None:
        columns = {len(row) for row in rows}
        if len(columns) != 1 or 0 in columns:
            raise UserError(f"text rows need one common number of columns, got {sorted(columns)}")
        self.columns = columns.pop()
        self.views = self.columns if views is None else views
        if self.views < 1 or self.columns not in (1, self.views):
            raise UserError(f"{self.views} views cannot be made of {self.columns} columns")
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.room = max_length - len(self.prefix) - len(self.suffix)
        if self.room < 1:
            raise UserError(f"data.max_length={max_length} leaves no room between special tokens")
        if tokenizer.pad_token_id is None:
            raise UserError("this tokenizer has no padding token: set tokenizer.pad_token first")
        self.pad_id = int(tokenizer.pad_token_id)
        self.tokenizer, self.seed, self.max_length = tokenizer, seed, max_length
        self.augment, self.augment_text, self.augment_batch = augment, augment_text, augment_batch
        texts = [MISSING if text is None else text for row in rows for text in row]
        self._texts = texts if augment_text is not None else None
        self._ids, self._offsets = _tokenise(tokenizer, texts)

    def __len__(self) -> int:
        return (len(self._offsets) - 1) // self.columns

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longest column of every row, cut and with special tokens, (N,) int64.

        Augmentation is not counted.
        """
        plain = np.diff(self._offsets).reshape(len(self), self.columns).max(axis=1)
        lengths: np.ndarray = np.minimum(plain, self.room) + len(self.prefix) + len(self.suffix)
        return lengths

    def __getitem__(self, keys: Sequence[Key]) -> TextBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        rows = [row for view in range(self.views) for row in self._view(keys, view)]
        input_ids, attention_mask = self._padded(rows)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "ids": torch.tensor([index for index, _ in keys]),
        }

    def _view(self, keys: Sequence[Key], view: int) -> Sequence[Ids]:
        """Ids of one view of every sample, without special tokens, not yet cut."""
        places = [index * self.columns + view % self.columns for index, _ in keys]
        rows: Sequence[Ids]
        if self._texts is not None and self.augment_text is not None:
            texts = [
                self.augment_text(self._texts[place], self._rng(key, 2 * view), view)
                for place, key in zip(places, keys, strict=True)
            ]
            rows = plain_ids(self.tokenizer, texts)
        else:
            rows = [self._ids[self._offsets[i] : self._offsets[i + 1]] for i in places]
        if self.augment is None and self.augment_batch is None:
            return rows
        rngs = [self._rng(key, 2 * view + 1) for key in keys]
        plain = [[int(i) for i in row] for row in rows]
        if self.augment is not None:
            plain = [self.augment(row, rng, view) for row, rng in zip(plain, rngs, strict=True)]
        return plain if self.augment_batch is None else self.augment_batch(plain, rngs, view)

    def _rng(self, key: Key, stream: int) -> Rng:
        index, epoch = key
        return sample_rng(self.seed, epoch, index, _FIRST_STREAM + stream)

    def _padded(self, rows: Sequence[Ids]) -> tuple[Tensor, Tensor]:
        """Ids with special tokens and attention mask, each (len(rows), L)."""
        before, around = len(self.prefix), len(self.prefix) + len(self.suffix)
        sizes = [min(len(row), self.room) for row in rows]
        ids = np.full((len(rows), max(sizes) + around), self.pad_id, dtype=np.int64)
        ids[:, :before] = self.prefix
        for line, row, size in zip(ids, rows, sizes, strict=True):
            line[before : before + size] = row[:size]
            line[before + size : size + around] = self.suffix
        mask = np.arange(ids.shape[1]) < np.asarray(sizes)[:, None] + around
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def _tokenise(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all texts in one array, and the (N + 1,) places where each begins."""
    parts, sizes = [], [0]
    for start in range(0, len(texts), _CHUNK):
        rows = plain_ids(tokenizer, texts[start : start + _CHUNK])
        sizes += [len(row) for row in rows]
        parts.append(np.fromiter((i for row in rows for i in row), dtype=np.int32))
    return np.concatenate(parts), np.cumsum(sizes)

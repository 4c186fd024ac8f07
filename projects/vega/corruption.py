"""Training batches of replaced-token detection: masked rows, and clean sentences for a contrast."""

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.config import UserError
from common.data.samplers import KEYED_FROM, Key, KeyedOrder, Rng, sample_rng
from common.data.text.masking import IGNORED
from common.data.text.token_files import TokenTexts
from common.encoders.text.template import plain_ids, special_tokens

_MASK_STREAM, _SENTENCE_STREAM = 81, 82


class MaskedRows(TypedDict):
    """N rows of L tokens, padded on the right."""

    input_ids: Tensor  # (N, L) int64, original
    attention_mask: Tensor  # (N, L) int64
    masked: Tensor  # (N, L) int64
    labels: Tensor  # (N, L) int64, the original token at masked places, -100 elsewhere
    counted: Tensor  # (N, L) bool, False at special tokens and padding
    uniform: Tensor  # (N, L) float32 in [0, 1), draws the samples


class Sentences(TypedDict):
    """Clean sentences."""

    ids: Tensor  # (N, L) int64
    attention_mask: Tensor  # (N, L) int64


class ReplacedTokenBatch(TypedDict):
    """N rows, and as many sentences where a contrast wants them."""

    rows: MaskedRows
    ids: Tensor  # (N,) int64, places in the epoch
    sentences: NotRequired[Sentences]


class ReplacedTokenRows(Dataset[ReplacedTokenBatch]):
    """Map-style set that returns whole batches; all choices depend on seed, epoch and row alone.

    max(1, round(share * tokens)) single tokens of a row are masked, all of them shown as the mask.

    Source: Clark et al. 2020, section 2, arXiv 2003.10555; He et al. 2023, released code (spans of
    one token, always the mask), arXiv 2111.09543.

    Args:
        texts: N texts, or their ids on disk.
        tokenizer: of transformers, with padding and mask token.
        max_length: tokens of a row, special ones included.
        mask_share: in (0, 1], of the tokens that are not special.
        mask_limit: no more than this share, but at least one token.
        packed: rows of `max_length` that run over the borders of texts; else a row is a text.
        sentence_length: sentences alongside the rows, cut to this: of a row its own text; of packed
            rows one that no other row of the epoch has, since it would be its own negative. Where
            there are fewer texts than packed rows, further pieces of the texts are sentences as
            well.
            None: no sentences.
        seed: the experiment's.

    Raises:
        UserError: no texts with tokens, no mask token, or too few tokens for a packed row.
    """

    def __init__(
        self,
        texts: Sequence[str] | TokenTexts,
        tokenizer: Any,
        *,
        max_length: int,
        mask_share: float = 0.15,
        mask_limit: float = 0.2,
        packed: bool = False,
        sentence_length: int | None = None,
        seed: int = 0,
    ) -> None:
        if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
            raise UserError(
                "replaced-token detection needs a tokenizer with mask and padding token"
            )
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.mask_id, self.pad_id = int(tokenizer.mask_token_id), int(tokenizer.pad_token_id)
        around = len(self.prefix) + len(self.suffix)
        self.room, self.share, self.limit, self.seed = (
            max_length - around,
            mask_share,
            mask_limit,
            seed,
        )
        self.texts: Sequence[Sequence[int]] = (
            texts
            if isinstance(texts, TokenTexts)
            else [ids for ids in plain_ids(tokenizer, texts) if ids]
        )
        if not len(self.texts) or self.room < 1:
            raise UserError("there are no texts to read: give others, or raise pretrain.max_length")
        self.rows = PackedRows(self.texts, self.room) if packed else self.texts
        if not len(self.rows):
            raise UserError(f"the texts have fewer tokens than a row of {self.room}")
        self.packed = packed
        self.sentence_room = None if sentence_length is None else sentence_length - around
        self.pieces = self._pieces() if packed and sentence_length is not None else None
        self._drawn: tuple[int, np.ndarray | KeyedOrder] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, keys: Sequence[Key]) -> ReplacedTokenBatch:
        """Batch of the given ``(index, epoch)`` keys."""
        drawn = [self._row(index, epoch) for index, epoch in keys]
        ids, mask = self._padded([row for row, _ in drawn])
        masked, labels = ids.clone(), torch.full_like(ids, IGNORED)
        counted, uniform = torch.zeros_like(ids, dtype=torch.bool), torch.zeros(ids.shape)
        for i, (row, rng) in enumerate(drawn):
            places = len(self.prefix) + np.sort(rng.permutation(len(row))[: self.count(len(row))])
            labels[i, places], masked[i, places] = ids[i, places], self.mask_id
            counted[i, len(self.prefix) : len(self.prefix) + len(row)] = True
            uniform[i, places] = torch.from_numpy(rng.random(len(places), dtype=np.float32))
        rows: MaskedRows = {
            "input_ids": ids,
            "attention_mask": mask,
            "masked": masked,
            "labels": labels,
            "counted": counted,
            "uniform": uniform,
        }
        batch: ReplacedTokenBatch = {"rows": rows, "ids": torch.tensor([i for i, _ in keys])}
        if self.sentence_room is not None:
            plain = [self._sentence(index, epoch)[: self.sentence_room] for index, epoch in keys]
            sentences, there = self._padded(plain)
            batch["sentences"] = {"ids": sentences, "attention_mask": there}
        return batch

    def count(self, length: int) -> int:
        """Masked tokens of a row.

        Args:
            length: its tokens, special ones left out.
        """
        return max(1, min(round(self.share * length), int(self.limit * length)))

    def _row(self, index: int, epoch: int) -> tuple[list[int], Rng]:
        return list(self.rows[index][: self.room]), sample_rng(
            self.seed, epoch, index, _MASK_STREAM
        )

    def _sentence(self, index: int, epoch: int) -> Sequence[int]:
        if not self.packed:
            return self.texts[index]
        assert self.pieces is not None
        if self._drawn is None or self._drawn[0] != epoch:
            rng, count = sample_rng(self.seed, epoch, 0, _SENTENCE_STREAM), len(self.pieces)
            large = count >= KEYED_FROM
            self._drawn = epoch, KeyedOrder(count, rng) if large else rng.permutation(count)
        text, start = self.pieces[int(self._drawn[1][index : index + 1][0])]
        return self.texts[text][start:]

    def _pieces(self) -> "Pieces":
        """Texts and places where a sentence may begin, at least as many as rows.

        With fewer texts than rows, steps no longer than a row cut the texts into enough pieces.
        """
        if len(self.texts) >= len(self.rows):
            return Pieces(np.ones(len(self.texts), np.int64), 1)
        assert self.sentence_room is not None
        step = max(1, min(self.sentence_room, self.room))
        return Pieces(token_counts(self.texts), step)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (N, L) of rows without special tokens."""
        whole = [[*self.prefix, *row, *self.suffix] for row in rows]
        ids = torch.full((len(whole), max(map(len, whole))), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(whole):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        return ids, mask


class PackedRows(Sequence[Sequence[int]]):
    """Rows of equal length over the borders of texts; the rest of the last one is left out.

    Args:
        texts: ids of each text.
        length: tokens of a row.
    """

    def __init__(self, texts: Sequence[Sequence[int]], length: int) -> None:
        self.length = length
        self.texts = texts if isinstance(texts, TokenTexts) else None
        self.stream = [] if self.texts is not None else [i for ids in texts for i in ids]

    def __len__(self) -> int:
        count = len(self.stream) if self.texts is None else self.texts.num_tokens
        return count // self.length

    def __getitem__(self, index: Any) -> Any:
        start = index * self.length
        if self.texts is None:
            return self.stream[start : start + self.length]
        return self.texts.span(start, start + self.length)


class Pieces:
    """Texts cut at every `step` tokens: number of a piece -> its text and where it begins.

    Args:
        counts: (N,) tokens of each text.
        step: tokens between two beginnings.
    """

    def __init__(self, counts: np.ndarray, step: int) -> None:
        self.step = step
        self.starts = np.concatenate([[0], np.cumsum(-(-counts // step))])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, piece: int) -> tuple[int, int]:
        text = int(np.searchsorted(self.starts, piece, side="right")) - 1
        return text, (piece - int(self.starts[text])) * self.step


def token_counts(texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Tokens of each text, (N,) int64."""
    if isinstance(texts, TokenTexts):
        return texts.lengths()
    return np.array([len(ids) for ids in texts], np.int64)

"""A text tower with its tokenizer: texts -> embeddings.

Source: Gao et al. 2021, "SimCSE", arXiv 2104.08821, official code (inference).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import UserError
from common.encoders.length_groups import in_length_groups
from common.encoders.modes import evaluation_mode
from common.encoders.text.pooling import Pooling
from common.encoders.text.template import add_template, check_template, special_tokens
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import (
    Attention,
    TextTower,
    length_limit,
    load_tokenizer,
    text_tower,
)

Progress = Callable[[Iterable[slice], str, int], Iterable[slice]]
GROUPS, GROUP_ROWS = 4, 16  # of a training batch on a CPU, where nothing else is asked for
_WINDOW = 64  # batches that are tokenised at once and sorted by their number of tokens


class SentenceEncoder(nn.Module):
    """A text tower with its tokenizer.

    Args:
        tower: ids and mask (B, L) -> (B, D).
        tokenizer: of the transformers library, with a padding token.
        max_length: tokens of a text, special ones included; None is the limit of the model, and
            no limit for a model without one. With pooling "avg_all" every text is padded to it.
        normalize: `encode` gives unit vectors.
        length_groups: passes over a training batch, each of texts of similar length and padded to
            its own longest one. Embeddings and gradients are those of one pass, but for the order
            in which dropout is drawn; what it saves is the arithmetic on padding. None: on a CPU
            up to four passes of 16 rows at least, else one (measured on a CPU alone).
        template: what every text is written into, see `add_template`; its tokens count towards
            `max_length`. Pooling "mask" takes the state at its mask token; a mask token that a text
            itself holds is read as an unknown word.

    Raises:
        UserError: no padding token, `max_length` above the limit of the model or without room for a
            text in its template, or a tokenizer that cannot have a template.
        ValueError: `length_groups` below 1, or above 1 with pooling "avg_all", which sees padding.
    """

    def __init__(
        self,
        tower: TextTower,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        normalize: bool = False,
        length_groups: int | None = 1,
        template: str | None = None,
    ) -> None:
        super().__init__()
        groups = 1 if length_groups is None else length_groups
        if groups < 1 or (groups > 1 and tower.pooling == "avg_all"):
            raise ValueError(
                f"length_groups must be >= 1, and 1 with pooling avg_all, got {length_groups}"
            )
        if tokenizer.pad_token_id is None:
            raise UserError(
                "the tokenizer has no padding token; set tokenizer.pad_token, e.g. to its "
                "end-of-text token"
            )
        if template is not None:
            check_template(template, mask=tower.pooling == "mask")
            add_template(tokenizer, template)
        limit = length_limit(tower.model, tokenizer)
        if max_length is not None and limit is not None and max_length > limit:
            raise UserError(f"max_length={max_length}, but this model reads at most {limit} tokens")
        self.tower, self.tokenizer, self.normalize = tower, tokenizer, normalize
        self.max_length = limit if max_length is None else max_length
        around = tokenizer.num_special_tokens_to_add()
        if self.max_length is not None and self.max_length <= around:
            raise UserError(
                f"max_length={self.max_length} leaves no room for a text: {around} tokens stand"
                f" around it; set max_length to {around + 1} at least, or shorten the template"
            )
        self.num_features, self.length_groups = tower.num_features, length_groups
        self.template = template

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Ids and mask (B, L) -> features (B, D) of the tower, never normalised."""
        groups = self._groups(input_ids) if self.training else 1
        if groups > 1 and attention_mask is not None:
            return in_length_groups(
                self.tower, groups, input_ids=input_ids, attention_mask=attention_mask
            )
        features: Tensor = self.tower(input_ids, attention_mask)
        return features

    def _groups(self, input_ids: Tensor) -> int:
        """Passes over a training batch."""
        if self.length_groups is not None:
            return self.length_groups
        one_pass = torch.compiler.is_compiling() or self.tower.pooling == "avg_all"
        if one_pass or input_ids.device.type != "cpu":
            return 1
        return min(GROUPS, len(input_ids) // GROUP_ROWS)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Ids and mask of B texts, padded to the longest and cut at `max_length`.

        Returns:
            ``input_ids`` and ``attention_mask``, (B, L) int64, on the CPU.

        Raises:
            ValueError: no texts.
        """
        return self._pad(self._ids(texts))

    def encode(
        self,
        texts: str | Sequence[str],
        batch_size: int = 64,
        normalize: bool | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Embed texts in evaluation mode, in batches of similar length.

        Args:
            texts: N texts; a single string counts as one.
            batch_size: texts per pass.
            normalize: unit vectors; None keeps the setting of the encoder.
            progress: wraps the loop over the batches, called with (iterable, description, total).

        Returns:
            (N, D) on the CPU in the given order, float32 (float64 of a float64 model). There is no
            second copy of it at any time.

        Raises:
            ValueError: no texts.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not texts:
            raise ValueError("there is nothing to encode")
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        batches = [
            slice(i, min(i + batch_size, len(order))) for i in range(0, len(order), batch_size)
        ]
        shown = batches if progress is None else progress(batches, "encode", len(batches))
        window = batch_size * _WINDOW
        rows: list[list[int]] = []
        unit = self.normalize if normalize is None else normalize
        embeddings = torch.empty(0)
        with evaluation_mode(self):
            for part in shown:
                start = part.start % window
                if start == 0:
                    now = order[part.start : part.start + window]
                    ids = self._ids([texts[i] for i in now])
                    by_length = sorted(range(len(now)), key=lambda i: -len(ids[i]))
                    rows = [ids[i] for i in by_length]
                    order[part.start : part.start + window] = [now[i] for i in by_length]
                inputs = self._pad(rows[start : start + part.stop - part.start])
                inputs = {name: value.to(self.device) for name, value in inputs.items()}
                vectors = self(**inputs).cpu()
                vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
                vectors = F.normalize(vectors, dim=1) if unit else vectors
                if not len(embeddings):
                    embeddings = vectors.new_empty(len(order), vectors.shape[1])
                embeddings[torch.tensor(order[part])] = vectors
        return embeddings

    def similarity(
        self, a: str | Sequence[str] | Tensor, b: str | Sequence[str] | Tensor
    ) -> Tensor:
        """Cosine of every text or embedding of `a` with every one of `b`.

        Args:
            a: M texts, or their embeddings (M, D).
            b: N texts, or their embeddings (N, D).

        Returns:
            (M, N).
        """
        left, right = (x if isinstance(x, Tensor) else self.encode(x) for x in (a, b))
        return F.normalize(left, dim=1) @ F.normalize(right, dim=1).T

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            raise ValueError("there are no texts")
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        if self.template is not None and self.tower.pooling == "mask":
            ids = [self._one_mask(row) for row in ids]
        return ids

    def _one_mask(self, row: list[int]) -> list[int]:
        """The ids with the template's mask token alone."""
        mask, other = self.tokenizer.mask_token_id, self.tokenizer.unk_token_id
        if row.count(mask) == 1:
            return row
        before, after = special_tokens(self.tokenizer)
        text = slice(len(before), len(row) - len(after))
        return before + [other if i == mask else i for i in row[text]] + after

    def _pad(self, rows: list[list[int]]) -> dict[str, Tensor]:
        length = max(len(row) for row in rows)
        if self.tower.pooling == "avg_all" and self.max_length is not None:
            length = self.max_length  # a mean over padding needs one fixed length
        pad, left = self.tokenizer.pad_token_id, self.tokenizer.padding_side == "left"
        ids, mask = [], []
        for row in rows:
            fill, ones = [pad] * (length - len(row)), [1] * len(row)
            none = [0] * len(fill)
            ids.append(fill + row if left else row + fill)
            mask.append(none + ones if left else ones + none)
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def sentence_encoder(
    pretrained: str,
    pooling: Pooling = "avg",
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    mlp_only_train: bool = False,
    attention: Attention = "auto",
    max_length: int | None = None,
    normalize: bool = False,
    length_groups: int | None = 1,
    template: str | None = None,
    tokenizer: str | None = None,
) -> SentenceEncoder:
    """Build tower and tokenizer from a ``pretrained:`` string.

    Args:
        pretrained: see `text_tower`; "random" comes with `tiny_tokenizer`, or with `tokenizer`.
        pooling: see `common.encoders.text.pooling.pool`.
        config: with "random": the architecture; its ``vocab_size`` bounds the tokenizer's.
        dropout: see `text_tower`.
        mlp_only_train: see `TextTower`.
        attention: see `load_transformer`.
        max_length: see `SentenceEncoder`.
        normalize: see `SentenceEncoder`.
        length_groups: see `SentenceEncoder`.
        template: see `SentenceEncoder`.
        tokenizer: with "random": a ``pretrained:`` string whose tokenizer is taken; it gives the
            architecture its number of pieces and its padding.

    Raises:
        UserError: see `text_tower`, `tiny_tokenizer` and `SentenceEncoder`; a tokenizer alongside
            weights that have their own.
        ValueError: see `TextTower` and `SentenceEncoder`.
    """
    if tokenizer is not None and pretrained != "random":
        raise UserError(f"pretrained={pretrained!r} has its own tokenizer, not {tokenizer!r}")
    if pretrained != "random":
        reader = load_tokenizer(pretrained)
    elif tokenizer is None:
        reader = tiny_tokenizer(int((config or {}).get("vocab_size", 256)))
    else:
        reader = load_tokenizer(tokenizer)
        sizes = {"vocab_size": len(reader), "pad_token_id": reader.pad_token_id}
        config = {**(config or {}), **sizes}
    tower = text_tower(
        pretrained,
        pooling,
        config=config,
        dropout=dropout,
        mlp_only_train=mlp_only_train,
        mask_token_id=reader.mask_token_id,
        attention=attention,
    )
    return SentenceEncoder(
        tower,
        reader,
        max_length=max_length,
        normalize=normalize,
        length_groups=length_groups,
        template=template,
    )

"""Words of a text and their word pieces; how much attention [CLS] pays to each word."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.config import UserError

Heads = Literal["mean", "max"]


@dataclass(frozen=True)
class WordPieces:
    """A text as its tokenizer cuts it.

    Attributes:
        ids: of the L pieces, without special tokens.
        words: the W words as they stand in the text, lower-cased.
        word_of: (L,) index of the word that each piece belongs to, ascending.
    """

    ids: list[int]
    words: list[str]
    word_of: list[int]

    @property
    def first(self) -> list[int]:
        """(W,) place of the first piece of every word."""
        starts = [i for i, (a, b) in enumerate(pairwise([-1, *self.word_of])) if a != b]
        return starts

    @property
    def continues(self) -> list[bool]:
        """(L,) whether a piece continues with the word of the piece before it."""
        return [a == b for a, b in pairwise([-1, *self.word_of])]


def word_pieces(tokenizer: Any, texts: Sequence[str], max_pieces: int) -> list[WordPieces]:
    """Words and pieces of texts; words are those that the tokenizer itself cuts a text into.

    A word that does not fit whole is left out together with all that follows.

    Args:
        tokenizer: a fast one of transformers.
        texts: N texts.
        max_pieces: of a text.

    Raises:
        UserError: the tokenizer is not a fast one.

    >>> from common.encoders.text.tiny_tokenizer import tiny_tokenizer
    >>> pieces = word_pieces(tiny_tokenizer(), ["The cow, the"], 9)[0]
    >>> pieces.words, pieces.first, pieces.continues[:4]
    (['the', 'cow', ',', 'the'], [0, 1, 4, 5], [False, False, True, True])
    """
    if not tokenizer.is_fast:
        raise UserError("words of a text need a fast tokenizer, with tokenizer.json")
    if not texts:
        return []
    batch = tokenizer(  # quiet about texts that are longer than the model reads: they are cut here
        list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return [
        _one(text, batch["input_ids"][i], batch.word_ids(i), batch["offset_mapping"][i], max_pieces)
        for i, text in enumerate(texts)
    ]


def _one(
    text: str, ids: list[int], owners: list[int], offsets: list[tuple[int, int]], limit: int
) -> WordPieces:
    end = min(limit, len(ids))
    while 0 < end < len(ids) and owners[end] == owners[end - 1]:  # not in the middle of a word
        end -= 1
    words: list[str] = []
    word_of: list[int] = []
    begin = 0
    for i in range(end):
        if not i or owners[i] != owners[i - 1]:
            begin = offsets[i][0]
            words.append("")
        words[-1] = text[begin : offsets[i][1]].lower()
        word_of.append(len(words) - 1)
    return WordPieces(list(ids[:end]), words, word_of)


def expose_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a transformer to the attention that returns its weights; returns it.

    Raises:
        UserError: the architecture has no such attention.
    """
    try:
        model.set_attn_implementation("eager")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{type(model).__name__} cannot return its attention: {error}") from error
    return model


def cls_attention(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    layer: int = -1,
    heads: Heads | int = "mean",
) -> Tensor:
    """Attention from the first position to every position.

        a_i = reduce_h softmax(q_h0 k_h^T / sqrt(d))_i   in one layer, h over its heads

    Source: Ma et al. 2021, "B-PROP", section 4.1 (vanilla [CLS]-token attention), arXiv 2104.09791.

    Args:
        model: an encoder, see `expose_attention`, in evaluation mode.
        input_ids: (N, L), [CLS] first.
        attention_mask: (N, L).
        layer: of the attention, counted from 0 or from the end.
        heads: "mean", "max", or one head's index.

    Returns:
        (N, L), 0 at masked positions; rows sum to 1 unless heads is "max".

    Raises:
        UserError: the model returns no attention, or has no such layer or head.
    """
    outputs = model(input_ids=input_ids, attention_mask=attention_mask, output_attentions=True)
    layers = outputs.attentions
    if not layers or layers[0] is None:
        raise UserError(f"{type(model).__name__} returned no attention: see expose_attention")
    if not -len(layers) <= layer < len(layers):
        raise UserError(f"layer {layer}: this encoder has {len(layers)} layers")
    rows: Tensor = layers[layer][:, :, 0]  # (N, H, L)
    if isinstance(heads, int):
        if not 0 <= heads < rows.shape[1]:
            raise UserError(f"head {heads}: a layer of this encoder has {rows.shape[1]} heads")
        return rows[:, heads] * attention_mask
    reduced = rows.mean(1) if heads == "mean" else rows.amax(1)
    return torch.where(attention_mask.bool(), reduced, 0.0)

"""Cross-encoder: two texts in one sequence -> logits, by a classifier of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from common.config import UserError
from common.encoders.heads import PairHead
from common.encoders.length_groups import Progress, in_batches_by_length
from common.encoders.modes import evaluation_mode
from common.encoders.pooling import mean_pool
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import (
    Attention,
    first_position,
    load_tokenizer,
    load_transformer,
)

Head = Literal["new", "keep"]
Cut = Literal["second", "longest"]
PairPooling = Literal["classifier", "segments"]
SPECIAL_PIECES = 3  # [CLS] a [SEP] b [SEP]


def pair_ids(
    first: Sequence[int],
    second: Sequence[int],
    tokenizer: Any,
    max_length: int,
    cls_last: bool = False,
) -> tuple[list[int], list[int]]:
    """One sequence of two: [CLS] first [SEP] second [SEP], cut at the end of `second` alone.

    A tokenizer that puts two separators between the texts (RoBERTa) gets two, with
    `cls_last` (XLNet) it is first [SEP] second [SEP] [CLS].

    Source: Devlin et al. 2019, "BERT", section 3 (input), arXiv 1810.04805.

    Args:
        first: ids without special tokens; the whole of it is kept.
        second: ids without special tokens.
        tokenizer: with a start and a separator token.
        max_length: ids of the sequence at most.
        cls_last: see `ends_in_cls`.

    Returns:
        Ids, and segments: 0 up to the separator of `first`, 1 after it, 2 for a [CLS] at the end.

    Raises:
        ValueError: `first` leaves no room for a piece of `second`, if that has any.
    """
    sep, cls = tokenizer.sep_token_id, tokenizer.cls_token_id
    if cls_last:
        room = max_length - len(first) - SPECIAL_PIECES
        if room < min(1, len(second)):
            raise ValueError(_no_room(first, max_length))
        tail = [*second[:room], sep]
        ids = [*first, sep, *tail, cls]
        return ids, [0] * (len(first) + 1) + [1] * len(tail) + [2]
    between = [sep] * (tokenizer.num_special_tokens_to_add(pair=True) - 2)
    head = [cls, *first, *between]
    room = max_length - len(head) - 1
    if room < min(1, len(second)):
        raise ValueError(_no_room(first, max_length))
    tail = [*second[:room], sep]
    return [*head, *tail], [0] * len(head) + [1] * len(tail)


def ends_in_cls(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers puts its [CLS] last, as XLNet's does."""
    empty: list[int] = tokenizer("", add_special_tokens=True)["input_ids"]
    return bool(empty) and empty[-1] == tokenizer.cls_token_id != tokenizer.sep_token_id


def cut_longest(
    first: Sequence[int], second: Sequence[int], room: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Both texts, the longer one cut piece by piece until they fit into `room` >= 2 pieces.

    Source: Devlin et al. 2019, released code (_truncate_seq_pair), arXiv 1810.04805.

    >>> cut_longest([1, 2, 3, 4, 5], [6, 7], 4)
    ([1, 2], [6, 7])
    """
    # equally long texts lose pieces in turn, the second first
    keep_first = max((room + 1) // 2, room - len(second))
    keep_second = max(room // 2, room - len(first))
    return first[:keep_first], second[:keep_second]


def _no_room(first: Sequence[int], max_length: int) -> str:
    return f"a first text of {len(first)} pieces leaves no room for the second in {max_length}"


class CrossEncoder(nn.Module):
    """A sequence classifier with its tokenizer, for pairs of texts: rankers and pair classifiers.

    Source: Nogueira & Cho 2019, "Passage re-ranking with BERT", section 3, arXiv 1901.04085.

    Args:
        model: from `AutoModelForSequenceClassification`; one label for a ranker, C for classes.
        tokenizer: of the transformers library, with start, separator and padding token.
        max_length: pieces of a pair, special ones included; None is the limit of the model.
        max_first: pieces of the first text, which is cut there; the second is cut to what is left.
        cut: "second" as above, for queries and documents; "longest" cuts the longer of the two and
            leaves `max_first` out, for pairs of sentences.
        pair_head: reads the means of the two texts' states in place of the model's own classifier,
            which then plays no part. The model still reads both texts in one sequence. Small models
            whose [CLS] was never trained learn faster so.

    Raises:
        UserError: a tokenizer without one of these tokens, or lengths that the model has not.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        max_first: int | None = None,
        cut: Cut = "second",
        pair_head: PairHead | None = None,
    ) -> None:
        super().__init__()
        for name in ("cls_token", "sep_token", "pad_token"):
            if getattr(tokenizer, name) is None:
                raise UserError(f"a cross-encoder needs a tokenizer with a {name}")
        limit: Any = getattr(model.config, "max_position_embeddings", None)
        limit = None if limit is not None and limit < 1 else limit  # XLNet says -1: no limit
        if limit is not None:
            limit -= first_position(model)
        if limit is not None and max_length is not None and max_length > limit:
            raise UserError(f"max_length={max_length}, but this model reads at most {limit} tokens")
        if max_length is None and limit is None:
            raise UserError("this model has no limit of its own: set max_length")
        self.model, self.tokenizer = model, tokenizer
        self.max_length = int(max_length or limit)
        self.max_first = self.max_length // 2 if max_first is None else max_first
        if self.max_first + SPECIAL_PIECES + 1 > self.max_length:
            raise UserError(
                f"a first text of {self.max_first} pieces leaves no room for the second in "
                f"max_length={self.max_length}"
            )
        self.cut, self.cls_last = cut, ends_in_cls(tokenizer)
        self.pair_head = pair_head
        self.num_labels = int(model.config.num_labels or 1)
        self.has_segments = self.cls_last or getattr(model.config, "type_vocab_size", 0) > 1

    @property
    def encoder(self) -> PreTrainedModel:
        """The transformer without the head."""
        base: PreTrainedModel = self.model.base_model
        return base

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the transformer, as some callers leave out the head."""
        self.encoder.compile(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def head_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the head by name: what is not the transformer's (its pooler is)."""
        prefix = f"{self.model.base_model_prefix}."
        return {k: p for k, p in self.model.named_parameters() if not k.startswith(prefix)}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Logits (N, C) of ids, mask and segments, each (N, L)."""
        inputs = self._inputs(input_ids, attention_mask, token_type_ids)
        if self.pair_head is not None and token_type_ids is not None:
            states = self.encoder(**inputs).last_hidden_state
            means = [
                mean_pool(states, attention_mask * token_type_ids.eq(place)) for place in (0, 1)
            ]
            pair_logits: Tensor = self.pair_head(*means)
            return pair_logits
        logits: Tensor = self.model(**inputs).logits
        return logits

    def with_states(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, C), and the states (N, L, D) of the last layer for a second head.

        Raises:
            UserError: a `pair_head`, which the model's own logits know nothing of.
        """
        if self.pair_head is not None:
            raise UserError(
                "a second head needs the model's own classifier: set pooling=classifier"
            )
        inputs = self._inputs(input_ids, attention_mask, token_type_ids)
        output = self.model(**inputs, output_hidden_states=True)
        return output.logits, output.hidden_states[-1]

    def pad(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Tensor]:
        """Ids, mask and segments (N, L) of rows of ids and segments, on the CPU."""
        left = self.tokenizer.padding_side == "left" and self.cls_last
        return pad_pairs(rows, self.tokenizer.pad_token_id, left)

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """Ids, mask and segments (N, L) of N pairs of texts, padded to the longest.

        Raises:
            ValueError: no pairs.
        """
        if not pairs:
            raise ValueError("there are no pairs to tokenize")
        return self.pad(self._rows(pairs))

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> Tensor:
        """Logits in evaluation mode, in batches of similar length.

        Args:
            pairs: N pairs (query, document), of any order.
            batch_size: pairs of a pass.
            progress: wraps the loop over the batches, called with (iterable, description, total).

        Returns:
            (N,) of a ranker, (N, C) of a classifier, float32 (float64 of a float64 model), on the
            CPU and in the given order.

        Raises:
            ValueError: no pairs.
        """
        if not pairs:
            raise ValueError("there are no pairs to score")
        rows = self._rows(pairs)

        def run(places: list[int]) -> Tensor:
            inputs = self.pad([rows[i] for i in places])
            logits: Tensor = self(**{k: v.to(self.device) for k, v in inputs.items()})
            return logits

        with evaluation_mode(self):
            logits = in_batches_by_length(
                run, [len(ids) for ids, _ in rows], batch_size, progress, "score"
            )
        return logits[:, 0] if self.num_labels == 1 else logits

    def _rows(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Ids and segments of pairs; a text that occurs often is tokenised once."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        # quiet about texts that are longer than the model reads: they are cut here
        ids = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        ids_of = dict(zip(texts, ids, strict=True))
        return [self.row(ids_of[a], ids_of[b]) for a, b in pairs]

    def row(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids and segments of one pair of texts, given as ids without special tokens."""
        if self.cut == "longest":
            room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
            first, second = cut_longest(first, second, room)
        else:
            first = first[: self.max_first]
        return pair_ids(first, second, self.tokenizer, self.max_length, self.cls_last)

    def _inputs(self, ids: Tensor, mask: Tensor, segments: Tensor | None) -> dict[str, Tensor]:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.has_segments and segments is not None:
            inputs["token_type_ids"] = segments
        return inputs


def pad_pairs(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, left: bool = False
) -> dict[str, Tensor]:
    """``input_ids``, ``attention_mask`` and ``token_type_ids``, (N, L) int64.

    Args:
        rows: N pairs of ids and segments, as `pair_ids` returns them.
        pad_id: of the tokenizer.
        left: pad before the row.

    >>> pad_pairs([([2, 7, 3], [0, 0, 1]), ([2], [0])], 0)["input_ids"].tolist()
    [[2, 7, 3], [2, 0, 0]]
    """
    longest = max(len(ids) for ids, _ in rows)
    padded = torch.zeros(3, len(rows), longest, dtype=torch.long)
    padded[0] = pad_id
    for i, (ids, segments) in enumerate(rows):
        places = slice(longest - len(ids), longest) if left else slice(len(ids))
        padded[0, i, places] = torch.tensor(ids)
        padded[1, i, places] = 1
        padded[2, i, places] = torch.tensor(segments)
    return dict(zip(("input_ids", "attention_mask", "token_type_ids"), padded, strict=True))


def cross_encoder(
    pretrained: str,
    *,
    num_labels: int = 1,
    head: Head = "new",
    config: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    dropout: float | None = None,
    attention: Attention = "auto",
    max_length: int | None = None,
    max_first: int | None = None,
    cut: Cut = "second",
    pooling: PairPooling = "classifier",
    hidden_dims: Sequence[int] = (512,),
) -> CrossEncoder:
    """Build a cross-encoder from a ``pretrained:`` string, in training mode.

    Args:
        pretrained: Hugging Face id, folder, ``bundled:<name>`` or ``random``.
        num_labels: C, logits of a pair; 1 for a ranker.
        head: "keep" takes the head of the checkpoint, which must have one of this size; "new"
            draws one, and a pooler if the checkpoint has none, from the global random state.
        config: with "random": ``model_type`` and its fields.
        tokenizer: with "random": of other weights; None: the built-in one.
        dropout: overrides every dropout probability; None keeps them.
        attention: see `common.encoders.text.tower.load_transformer`.
        max_length: see `CrossEncoder`.
        max_first: see `CrossEncoder`.
        cut: see `CrossEncoder`.
        pooling: "classifier", the model's own; "segments", a new `pair_head`.
        hidden_dims: of that head.

    Raises:
        UserError: unknown or absent weights, no head where one is to be kept, see `CrossEncoder`.
    """
    if pretrained == "random":
        if head == "keep":
            raise UserError("random weights have no head to keep: use head=new")
        fields = {"vocab_size": 256, **(config or {}), "num_labels": num_labels}
        if tokenizer is not None:
            loaded_tokenizer = load_tokenizer(tokenizer)
            fields |= {
                "vocab_size": len(loaded_tokenizer),
                "pad_token_id": loaded_tokenizer.pad_token_id,
            }
        else:
            loaded_tokenizer = tiny_tokenizer(fields["vocab_size"])
        config = fields
    else:
        loaded_tokenizer = load_tokenizer(pretrained)
    try:
        model = load_transformer(
            pretrained,
            config=config,
            dropout=dropout,
            attention=attention,
            auto_class=AutoModelForSequenceClassification,
            num_labels=num_labels,
            new_head=head == "new",
        )
    except UserError as error:
        hint = " (a checkpoint without a ranking head needs head=new)" if head == "keep" else ""
        raise UserError(f"{error}{hint}") from error
    pair_head = None
    if pooling == "segments":
        model.base_model.pooler = None
        for name, _ in list(model.named_children()):
            if name != model.base_model_prefix:
                setattr(model, name, None)
        pair_head = PairHead(model.config.hidden_size, hidden_dims, num_labels)
    return CrossEncoder(
        model,
        loaded_tokenizer,
        max_length=max_length,
        max_first=max_first,
        cut=cut,
        pair_head=pair_head,
    )

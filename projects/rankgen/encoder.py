"""Prefix and suffix encoder: one transformer for both sides, told apart by a marker word."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForTextEncoding,
    AutoTokenizer,
    T5EncoderModel,
)

from common.config import UserError
from common.encoders.hub_files import read_pretrained_state
from common.encoders.length_groups import Progress, in_batches_by_length
from common.encoders.modes import evaluation_mode
from common.encoders.pretrained import PretrainedRef, is_offline, loading, resolve_pretrained
from common.encoders.state_dict import load_state
from common.encoders.text.pooling import Pooling
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import TextTower, load_transformer

Kind = Literal["prefix", "suffix"]

MARKERS: dict[Kind, str] = {"prefix": "pre ", "suffix": "suffi "}
RELEASED = "T5EncoderWithProjection"  # class name in the config.json of the released checkpoints
# states -> one vector: the paper's first position, or the mean over the tokens
POOLERS: dict[str, Pooling] = {"first": "cls_before_pooler", "mean": "avg"}
BACKBONE = "t5_encoder."  # where their transformer is in the state dict


class PrefixSuffixEncoder(nn.Module):
    """Texts -> vectors whose dot products say how well a suffix continues a prefix.

        f(x) = W h_0(marker + x),   score(p, s) = f_pre(p) . f_suf(s)

    with h_0 the last state at the first position, W without bias, and no normalisation.

    Source: Krishna et al. 2022, section 3, arXiv 2205.09726; marker words and lengths of the
    released code.

    Args:
        tower: transformer with pooling "cls_before_pooler" (the first position, as in the paper) or
            "avg" (for transformers whose first state is not trained).
        tokenizer: of the transformers library, with a padding token.
        prefix_length: tokens of a prefix, special ones and marker included.
        suffix_length: tokens of a suffix.

    Raises:
        UserError: no padding token, or a length beyond the model's limit.
    """

    def __init__(
        self, tower: TextTower, tokenizer: Any, prefix_length: int = 512, suffix_length: int = 128
    ) -> None:
        super().__init__()
        if tokenizer.pad_token_id is None:
            raise UserError("the tokenizer has no padding token; set tokenizer.pad_token")
        limit = int(getattr(tower.model.config, "max_position_embeddings", 0) or 10**9)
        if max(prefix_length, suffix_length) > limit:
            raise UserError(
                f"model.prefix_length={prefix_length} and model.suffix_length={suffix_length}: "
                f"this transformer reads at most {limit} tokens"
            )
        self.tower, self.tokenizer = tower, tokenizer
        self.lengths: dict[Kind, int] = {"prefix": prefix_length, "suffix": suffix_length}
        self.projection = nn.Linear(tower.num_features, tower.num_features, bias=False)
        nn.init.normal_(self.projection.weight, std=tower.num_features**-0.5)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.projection.weight.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (B, L) -> vectors (B, D)."""
        vectors: Tensor = self.projection(self.tower(input_ids, attention_mask))
        return vectors

    def token_ids(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Token ids of marked texts, cut on the right at the length of their kind.

        As in the release the row is cut with its end-of-text token, which only rows that fit keep;
        the marker comes first and is never cut.
        """
        marked = [MARKERS[kind] + text for text in texts]
        rows = self.tokenizer(marked, add_special_tokens=True, truncation=False)["input_ids"]
        return [row[: self.lengths[kind]] for row in rows]

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, (B, L) int64, padded on the right."""
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode(
        self,
        texts: str | Sequence[str],
        kind: Kind,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> Tensor:
        """Vectors of texts in evaluation mode, in batches of similar length.

        Args:
            texts: N texts without marker; a single string counts as one.
            kind: which side they are.
            batch_size: texts per pass.
            progress: wraps the loop over the batches, called with (iterable, description, total).

        Returns:
            (N, D) on the CPU in the given order, float32 (float64 of a float64 model).

        Raises:
            ValueError: no texts, or another kind.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not texts or kind not in MARKERS:
            raise ValueError(f"need texts and kind 'prefix' or 'suffix', got {kind!r}")
        rows = self.token_ids(texts, kind)

        def run(places: list[int]) -> Tensor:
            inputs = self.pad([rows[i] for i in places])
            vectors: Tensor = self(**{k: v.to(self.device) for k, v in inputs.items()})
            return vectors

        lengths = [len(row) for row in rows]
        with evaluation_mode(self):
            return in_batches_by_length(run, lengths, batch_size, progress, f"encode {kind}")


def build_encoder(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    attention: Literal["auto", "eager", "sdpa"] = "auto",
    prefix_length: int = 512,
    suffix_length: int = 128,
    tokenizer: str | None = None,
    projection_std: float | None = None,
    pooling: Literal["first", "mean"] = "first",
    layers: int | None = None,
) -> PrefixSuffixEncoder:
    """Encoder of a ``pretrained:`` string.

    A folder or hub id in the layout of the released checkpoints (``architectures:
    [T5EncoderWithProjection]``) fills transformer and projection; any other encoder gets a new
    projection.

    Args:
        pretrained: see `common.encoders.resolve_pretrained`.
        config: with "random": the architecture, ``model_type`` and its fields.
        dropout: overrides every dropout probability; None keeps them.
        attention: see `common.encoders.load_transformer`.
        prefix_length: see `PrefixSuffixEncoder`.
        suffix_length: see `PrefixSuffixEncoder`.
        tokenizer: place of the tokenizer where the weights come without one (the release, or
            random weights, whose vocabulary then is as large); None: the built-in one of random
            weights.
        projection_std: of a new projection; None: 1/sqrt(d).
        pooling: "first" is the paper's.
        layers: first layers of the transformer that are kept; None: all.

    Raises:
        UserError: absent or unfitting weights, or no tokenizer.
    """
    ref = resolve_pretrained(pretrained)
    state: dict[str, Tensor] | None = None
    model: Any
    stored = stored_config(ref)
    if ref.kind == "random" and tokenizer is None:
        words = tiny_tokenizer(int((config or {}).get("vocab_size", 256)))
    else:
        words = load_words(ref, tokenizer)
    if ref.kind == "random" and config is not None and tokenizer is not None:
        config = {"vocab_size": len(words), **config}
        if config["vocab_size"] < len(words):
            raise UserError(
                f"model.config: vocab_size={config['vocab_size']} is less than the {len(words)} "
                f"tokens of model.tokenizer={tokenizer}"
            )
    if stored is not None and RELEASED in (stored.architectures or []):
        state = read_pretrained_state(ref)
        model = T5EncoderModel(stored)
    else:
        model = load_transformer(
            pretrained,
            config=config,
            dropout=dropout,
            attention=attention,
            auto_class=encoder_class(
                stored.model_type if stored else (config or {}).get("model_type")
            ),
        )
    if layers is not None:
        keep_layers(model, layers)
    encoder = PrefixSuffixEncoder(
        TextTower(model, POOLERS[pooling]), words, prefix_length, suffix_length
    )
    if projection_std is not None:
        nn.init.normal_(encoder.projection.weight, std=projection_std)
    if state is not None:
        load_released(encoder, state, pretrained)
        if dropout is not None:
            set_dropout(encoder, dropout)
    return encoder


def keep_layers(model: Any, layers: int) -> None:
    """Drop all but the first layers of a transformer (of BERT's or T5's kind).

    Raises:
        UserError: it has fewer, or keeps them elsewhere.
    """
    stack = getattr(model, "encoder", None)
    t5 = hasattr(stack, "block")
    name, field = ("block", "num_layers") if t5 else ("layer", "num_hidden_layers")
    stack_layers = getattr(stack, name, ())
    if len(stack_layers) < layers:
        raise UserError(
            f"model.layers={layers}, but {type(model).__name__} has {len(stack_layers)} here"
        )
    setattr(stack, name, stack_layers[:layers])
    setattr(model.config, field, layers)


def encoder_class(model_type: str | None) -> Any:
    """Class that loads the encoder alone: of T5 the half without decoder."""
    return AutoModelForTextEncoding if model_type in ("t5", "mt5", "umt5") else AutoModel


def load_released(encoder: PrefixSuffixEncoder, state: Mapping[str, Tensor], source: str) -> None:
    """Fill an encoder with tensors named as in the released checkpoints.

    Raises:
        UserError: missing or further tensors.
    """
    current = encoder.tower.model.state_dict()
    inner = {k.removeprefix(BACKBONE): v for k, v in state.items() if k.startswith(BACKBONE)}
    if "shared.weight" in inner:  # tied; some files hold it once
        inner.setdefault("encoder.embed_tokens.weight", inner["shared.weight"])
    inner = {k: v for k, v in inner.items() if k in current or k != "encoder.embed_tokens.weight"}
    head = {
        k.removeprefix("projection."): v for k, v in state.items() if not k.startswith(BACKBONE)
    }
    load_state(encoder.tower.model, inner, source=source)
    load_state(encoder.projection, head, source=source)


def released_state(encoder: PrefixSuffixEncoder) -> dict[str, Tensor]:
    """The tensors under the names of the released checkpoints."""
    inner = {f"{BACKBONE}{k}": v for k, v in encoder.tower.model.state_dict().items()}
    return inner | {"projection.weight": encoder.projection.weight.detach()}


def set_dropout(encoder: PrefixSuffixEncoder, probability: float) -> None:
    """Set the probability of every dropout layer."""
    for module in encoder.tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def stored_config(ref: PretrainedRef) -> Any:
    """config.json of a folder or hub id; None for random weights."""
    if ref.kind == "random":
        return None
    with loading(ref):
        return AutoConfig.from_pretrained(_place(ref), local_files_only=_offline(ref))


def load_words(ref: PretrainedRef, tokenizer: str | None) -> Any:
    """Tokenizer alongside the weights, or the one that the config names.

    The released checkpoints come without; they were trained with that of T5 v1.1 of their size.
    """
    place = resolve_pretrained(tokenizer) if tokenizer else ref
    size = re.search(r"t5[-_](base|large|xl)", ref.spec)
    if tokenizer is None and size and ref.kind == "huggingface" and "rankgen" in ref.spec:
        place = resolve_pretrained(f"google/t5-v1_1-{size[1]}")
    with loading(place):
        return AutoTokenizer.from_pretrained(_place(place), local_files_only=_offline(place))


def _place(ref: PretrainedRef) -> str:
    if ref.kind not in ("folder", "huggingface"):
        raise UserError(f"pretrained={ref.spec!r}: give a folder, bundled:<name> or a hub id")
    return str(Path(ref.path)) if ref.path is not None else ref.name


def _offline(ref: PretrainedRef) -> bool:
    return ref.path is not None or is_offline()

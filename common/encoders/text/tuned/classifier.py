"""Text classifiers: an encoder of transformers, tuned in full, by LoRA or by a prefix.

# R rows, L length, D hidden size, C classes
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.config import UserError
from common.encoders.length_groups import in_batches_by_length
from common.encoders.modes import evaluation_mode
from common.encoders.pooling import mean_pool
from common.encoders.text.cross_encoder import ends_in_cls
from common.encoders.text.language_models.causal import add_lora
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import (
    Attention,
    first_position,
    load_tokenizer,
    load_transformer,
)
from common.encoders.text.tuned.prefix import Prefix, cache_argument, prefix_of

TuningKind = Literal["full", "lora", "prefix"]
ClassPooling = Literal["pooler", "cls", "mean"]
Texts = tuple[str, ...]  # one text, or the two of a pair


@dataclass(frozen=True)
class Tuning:
    """Which parameters are trained; the head always is.

    Sources: Hu et al. 2022 (LoRA), arXiv 2106.09685; Liu et al. 2022 (P-Tuning v2), arXiv
    2110.07602.

    Attributes:
        kind: all of them, low-rank adapters, or a prefix in every layer.
        prefix_length: m; 0 trains the head alone, on a frozen encoder whose dropout stays on.
        projection_dim: see `Prefix`.
        prefix_dropout: see `Prefix`; None: the encoder's own.
        shift_positions: positions of the text begin at m, as those of a continued text do; False:
            at their usual place.
        rank: r of LoRA.
        alpha: LoRA's product is scaled by alpha / r.
        lora_dropout: of the adapters' input.
        targets: ends of the names of the adapted layers.
    """

    kind: TuningKind = "full"
    prefix_length: int = 16
    projection_dim: int | None = None
    prefix_dropout: float | None = None
    shift_positions: bool = True
    rank: int = 8
    alpha: float = 16.0
    lora_dropout: float = 0.1
    targets: tuple[str, ...] = ("query", "value")

    @property
    def num_virtual(self) -> int:
        """Places that the prefix takes."""
        return self.prefix_length if self.kind == "prefix" else 0


class TextClassifier(nn.Module):
    """Encoder, sentence vector, linear head.

    Args:
        backbone: encoder of transformers.
        tokenizer: its tokenizer.
        classes: C names.
        tuning: what is trained; the backbone is frozen and given its adapters or prefix here.
        pooling: sentence vector: "cls", the first token of the last layer; "pooler", the same
            behind the backbone's own dense layer with tanh; "mean" over the tokens.
        dropout: on the vector.
        max_length: pieces of a row, special ones included.

    Raises:
        UserError: a length that the encoder has not, no pooler where it is wanted, the first token
            of a tokenizer whose [CLS] is the last one, see `prefix_of`.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: Any,
        classes: Sequence[str],
        tuning: Tuning | None = None,
        *,
        pooling: ClassPooling = "cls",
        dropout: float = 0.1,
        max_length: int = 128,
    ) -> None:
        super().__init__()
        config: Any = backbone.config
        if pooling == "pooler" and getattr(backbone, "pooler", None) is None:
            raise UserError(
                "model.pooling=pooler: this architecture has no pooler; use cls or mean"
            )
        if pooling != "mean" and ends_in_cls(tokenizer):
            raise UserError(
                f"model.pooling={pooling} takes the first token, and this tokenizer puts [CLS]"
                " last: use mean"
            )
        if pooling != "pooler" and getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        self.tuning = tuning or Tuning()
        self.tokenizer, self.classes, self.pooling = tokenizer, tuple(classes), pooling
        self.max_length, self.first_position = max_length, first_position(backbone)
        self._check_length(getattr(config, "max_position_embeddings", None))
        self.has_segments = (getattr(config, "type_vocab_size", 0) or 0) > 1
        self.prefix: Prefix | None = None
        self._tune(backbone)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, max(1, len(self.classes)))
        nn.init.normal_(self.head.weight, std=getattr(config, "initializer_range", 0.02))
        nn.init.zeros_(self.head.bias)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device

    def num_trained(self) -> int:
        """Parameters that get a gradient."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def states(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        """What the backbone returns for (R, L) ids, with the prefix in front of every layer's keys.

        Its states (R, L, D) are those of the text; the prefix has none.
        """
        if self.prefix is not None:
            rows, m = len(input_ids), self.prefix.length
            if not self.tuning.shift_positions:
                inputs["position_ids"] = self._positions(input_ids, attention_mask)
            inputs |= self.prefix_inputs(rows)
            ones = attention_mask.new_ones(rows, m)
            attention_mask = torch.cat([ones, attention_mask], 1)  # m + L places to attend to
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **inputs)

    def prefix_inputs(self, rows: int) -> dict[str, Any]:
        """The prefix of that many rows under the backbone's name for it; nothing without one."""
        name = cache_argument(self.backbone)
        return {} if self.prefix is None or name is None else {name: self.prefix.cache(rows)}

    def vectors(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Sentence vectors (R, D) before the pooler, for analyses and contrastive terms."""
        states: Tensor = self.states(input_ids, attention_mask, **inputs).last_hidden_state
        return mean_pool(states, attention_mask) if self.pooling == "mean" else states[:, 0]

    def pooled(self, vectors: Tensor) -> Tensor:
        """What enters the head: the vectors, or the pooler's view of them."""
        if self.pooling != "pooler":
            return vectors
        pooler: Any = self.backbone.pooler
        output: Tensor = pooler(vectors[:, None])  # of the first token of a sequence
        return output

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits (R, C) of what enters the head."""
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Tensor:
        """Logits (R, C)."""
        return self.classify(self.pooled(self.vectors(input_ids, attention_mask, **inputs)))

    # -- texts -----------------------------------------------------------------------------------

    def rows(self, texts: Sequence[Texts]) -> list[dict[str, list[int]]]:
        """Ids and segments of every text or pair; what does not fit is cut at its end.

        Raises:
            ValueError: no texts, or neither one nor two of them in a row.
        """
        if not texts or any(len(row) not in (1, 2) for row in texts):
            raise ValueError("need rows of one text, or of two")
        sides = [list(side) for side in zip(*texts, strict=True)]
        segments = self.has_segments and len(sides) == 2
        encoded = self.tokenizer(
            *sides,
            truncation="longest_first",
            max_length=self.max_length,
            return_token_type_ids=segments,
        )
        names = ["input_ids", *(["token_type_ids"] if segments else [])]
        return [{name: encoded[name][i] for name in names} for i in range(len(texts))]

    def pad(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, maybe ``token_type_ids``: (R, L) int64 on the CPU."""
        longest = max(len(row["input_ids"]) for row in rows)
        inputs = {"attention_mask": torch.zeros(len(rows), longest, dtype=torch.long)}
        for name in rows[0]:
            inputs[name] = torch.zeros(len(rows), longest, dtype=torch.long)
        inputs["input_ids"].fill_(self.tokenizer.pad_token_id)
        for i, row in enumerate(rows):
            count = len(row["input_ids"])
            inputs["attention_mask"][i, :count] = 1
            for name, values in row.items():
                inputs[name][i, :count] = torch.tensor(values)
        return inputs

    def encode(self, texts: Sequence[Texts], batch_size: int = 128) -> Tensor:
        """Sentence vectors (N, D) in evaluation mode, float32 on the CPU."""
        return self._run(texts, self.vectors, batch_size)

    def score(self, texts: Sequence[Texts], batch_size: int = 128) -> Tensor:
        """Logits (N, C) in evaluation mode, float32 on the CPU."""
        return self._run(texts, self, batch_size)

    def logits_of(self, vectors: Tensor) -> Tensor:
        """Logits (N, C) of vectors that `encode` returned, on the CPU."""
        with evaluation_mode(self):
            return self.classify(self.pooled(vectors.to(self.device))).float().cpu()

    def predict(self, texts: Sequence[Texts | str], batch_size: int = 128) -> list[str]:
        """The most likely class of each text or pair.

        Raises:
            ValueError: no texts.
        """
        rows = [(text,) if isinstance(text, str) else text for text in texts]
        return [self.classes[i] for i in self.score(rows, batch_size).argmax(1).tolist()]

    def _run(self, texts: Sequence[Texts], run: Callable[..., Tensor], batch_size: int) -> Tensor:
        rows = self.rows(texts)

        def part(places: list[int]) -> Tensor:
            inputs = self.pad([rows[i] for i in places])
            return run(**{name: x.to(self.device) for name, x in inputs.items()})

        with evaluation_mode(self):
            return in_batches_by_length(part, [len(r["input_ids"]) for r in rows], batch_size)

    # -- what is trained -------------------------------------------------------------------------

    def _tune(self, backbone: PreTrainedModel) -> None:
        tuning = self.tuning
        if tuning.kind == "full":
            return
        backbone.requires_grad_(False)  # its dropout stays on in training
        if tuning.kind == "lora":
            add_lora(
                backbone,
                rank=tuning.rank,
                alpha=tuning.alpha,
                dropout=tuning.lora_dropout,
                targets=tuning.targets,
            )
        elif tuning.prefix_length:
            dropout = tuning.prefix_dropout
            if dropout is None:
                dropout = float(getattr(backbone.config, "hidden_dropout_prob", 0.0))
            self.prefix = prefix_of(
                backbone,
                tuning.prefix_length,
                projection_dim=tuning.projection_dim,
                dropout=dropout,
                std=getattr(backbone.config, "initializer_range", 0.02),
            )

    def _positions(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Places of the text as they are without a prefix."""
        if not self.first_position:
            return torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        places = (
            attention_mask.cumsum(1) * attention_mask
        )  # RoBERTa counts from beyond the padding id
        return places + self.first_position - 1

    def _check_length(self, limit: int | None) -> None:
        if limit is None or limit < 1:
            return
        shift = self.tuning.num_virtual if self.tuning.shift_positions else 0
        if self.max_length + shift + self.first_position > limit:
            raise UserError(
                f"a prefix of {shift} and max_length={self.max_length} exceed the {limit} positions"
                " of the encoder: lower model.max_length or tuning.prefix_length"
            )


def keep_layers(backbone: PreTrainedModel, count: int) -> None:
    """Leave the first layers of an encoder, in place.

    Raises:
        UserError: it has fewer, or its layers are not in one list.
    """
    stack = blocks(backbone)
    if count > len(stack):
        raise UserError(f"model.layers={count}: this encoder has {len(stack)} layers")
    del stack[count:]
    backbone.config.num_hidden_layers = count


def draw_pooler(backbone: PreTrainedModel) -> None:
    """Draw a backbone's pooler from the global random state, as a new model's.

    Raises:
        UserError: an architecture without a pooler.
    """
    pooler = getattr(backbone, "pooler", None)
    if pooler is None:
        raise UserError(
            "model.pooling=new_pooler: this architecture has no pooler; use cls or mean"
        )
    std = getattr(backbone.config, "initializer_range", 0.02)
    for layer in pooler.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)


@contextmanager
def mixed_at(model: PreTrainedModel, layer: int, mix: Callable[[Tensor], Tensor]) -> Any:
    """Within it, what comes out of a layer is what `mix` makes of it.

    Layer 0 is the word embeddings.

    Args:
        model: encoder of transformers.
        layer: 0 to the number of layers.
        mix: (R, L, D) -> (R, L, D).

    Raises:
        ValueError: no such layer.
    """
    count = int(model.config.num_hidden_layers)
    if not 0 <= layer <= count:
        raise ValueError(f"layer must be in [0, {count}], got {layer}")
    place: Any = model.get_input_embeddings() if layer == 0 else blocks(model)[layer - 1]

    def change(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (mix(output[0]), *output[1:])
        return mix(output)

    handle = place.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of an encoder of transformers.

    Raises:
        UserError: an architecture whose layers are not in one list.
    """
    count = int(model.config.num_hidden_layers)
    for part in model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return part
    raise UserError(f"{type(model).__name__}: its layers are not in one list")


def text_classifier(
    pretrained: str,
    classes: Sequence[str],
    tuning: Tuning | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    layers: int | None = None,
    pooling: ClassPooling | Literal["new_pooler"] = "cls",
    dropout: float | None = None,
    head_dropout: float = 0.1,
    attention: Attention = "auto",
    max_length: int = 128,
) -> TextClassifier:
    """Build a classifier from a ``pretrained:`` string, in training mode.

    Args:
        pretrained: Hugging Face id, folder, ``bundled:<name>`` or ``random``.
        classes: names.
        tuning: what is trained; None: everything.
        config: with "random": ``model_type`` and its fields.
        layers: the first ones of the encoder, a smaller one; None: all.
        pooling: see `TextClassifier`; "new_pooler" draws the pooler from the global random state,
            for weights without one, such as RoBERTa's. It is trained with the backbone, so not in
            parameter-efficient tuning, as in the release of P-tuning v2.
        dropout: overrides every dropout of the encoder; None keeps them.
        head_dropout: on the sentence vector.
        attention: see `common.encoders.text.tower.load_transformer`.
        max_length: see `TextClassifier`.

    Raises:
        UserError: unknown or absent weights, more layers than there are, see `TextClassifier`.
    """
    if pretrained == "random":
        fields = {"vocab_size": 256, **(config or {})}
        tokenizer = tiny_tokenizer(fields["vocab_size"])
        config = fields
    else:
        tokenizer = load_tokenizer(pretrained)
    backbone = load_transformer(
        pretrained, config=config, dropout=dropout, attention=attention, pooler=pooling == "pooler"
    )
    if layers is not None:
        keep_layers(backbone, layers)
    if pooling == "new_pooler":
        draw_pooler(backbone)
        pooling = "pooler"
    return TextClassifier(
        backbone,
        tokenizer,
        classes,
        tuning,
        pooling=pooling,
        dropout=head_dropout,
        max_length=max_length,
    ).train()

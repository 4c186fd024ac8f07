"""Sentence vectors from the top layers of a transformer, word vectors or a BiLSTM.

Source: Barkan et al. 2020, "Distilled Sentence Embedding", arXiv 1908.05161, and its released code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedModel

from common.config import UserError
from common.encoders.pooling import check_mask
from common.encoders.text.pooling import first_token
from common.encoders.text.sentence import SentenceEncoder
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import Attention, TextTower, load_tokenizer, load_transformer

# word_vectors and bilstm are the baselines of the field: mean of the input embeddings, and a
# bidirectional LSTM with maximum over the last layer's states (ELMo-like where those are frozen)
LayerKind = Literal[
    "concat_top_mean",
    "mean_top_mean",
    "concat_top_max",
    "mean_top_max",
    "cls",
    "word_vectors",
    "bilstm",
]
LAYER_KINDS: tuple[LayerKind, ...] = get_args(LayerKind)


def pool_layers(
    hidden_states: Sequence[Tensor],
    mask: Tensor,
    kind: LayerKind = "concat_top_mean",
    *,
    top_layers: int = 4,
    use_cls: bool = False,
    sqrt_len: bool = False,
) -> Tensor:
    """Pool the top layers: features side by side or averaged, then mean or maximum over the tokens.

    Equation: ``concat_{l in top} (sum_{t in T} h_lt / |T|)``, T: all real tokens but the first one
    ([CLS]); the last one ([SEP]) belongs to them. Source: released code of arXiv 1908.05161.

    Args:
        hidden_states: outputs of the layers, last one on top, each (B, L, D).
        mask: (B, L), non-zero at real tokens; a row of [CLS] alone is pooled over it.
        kind: one of the four with "top" in their name.
        top_layers: layers that count, >= 1.
        use_cls: the first token belongs to T.
        sqrt_len: divide the sum by the root of |T|; for means alone.

    Returns:
        (B, top_layers * D) for "concat", (B, D) for "mean"; sums run in float32 at least.

    Raises:
        ValueError: another kind, fewer layers than asked for, `sqrt_len` with a maximum, or shapes
            that do not fit.

    >>> state = torch.tensor([[[9.0], [1.0], [3.0], [9.0]]])
    >>> pool_layers([state], torch.tensor([[1, 1, 1, 0]]), top_layers=1)
    tensor([[2.]])
    """
    if "top" not in kind or kind not in LAYER_KINDS:
        raise ValueError(f"no layers are pooled by {kind!r}")
    if not 1 <= top_layers <= len(hidden_states):
        raise ValueError(f"top_layers={top_layers} of {len(hidden_states)} layers")
    if sqrt_len and kind.endswith("max"):
        raise ValueError(f"sqrt_len divides a sum, and {kind} is a maximum")
    top = list(hidden_states[-top_layers:])
    states = torch.cat(top, 2) if kind.startswith("concat") else torch.stack(top).mean(0)
    check_mask(states, mask)
    kept = pooled_tokens(mask, use_cls).unsqueeze(-1)
    if kind.endswith("max"):
        return states.masked_fill(~kept, -torch.inf).amax(1)  # not in place: keeps the graph
    wide = torch.promote_types(states.dtype, torch.float32)
    count = kept.sum(1).to(wide)
    total = (states.to(wide) * kept).sum(1)
    return (total / (count.sqrt() if sqrt_len else count)).to(states.dtype)


def pooled_tokens(mask: Tensor, use_cls: bool = False) -> Tensor:
    """Real tokens without the first one, (B, L) bool; a row that has no other keeps it."""
    real = mask.ne(0)
    if use_cls:
        return real
    others = real & (real.cumsum(1) > 1)
    return torch.where(others.any(1, keepdim=True), others, real)


class LayerTower(TextTower):
    """A transformer, the pooling of its layers, dropout and an optional linear map.

    Args:
        model: encoder of transformers.
        kind: see `pool_layers`; "cls" is the model's own pooler (a dense layer with tanh on the
            first state, new where the checkpoint has none), for "word_vectors" and "bilstm" see
            above.
        top_layers: see `pool_layers`.
        use_cls: see `pool_layers`.
        sqrt_len: see `pool_layers`.
        dropout: on the pooled vector, in training.
        projection_dim: features of a linear map on top; None: no map.

    Raises:
        UserError: more layers than the model has, or "cls" of a model without pooler.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        kind: LayerKind = "concat_top_mean",
        *,
        top_layers: int = 4,
        use_cls: bool = False,
        sqrt_len: bool = False,
        dropout: float = 0.1,
        projection_dim: int | None = None,
    ) -> None:
        pooler: nn.Module | None = getattr(model, "pooler", None)
        super().__init__(model, "avg")
        width, layers = self.num_features, int(model.config.num_hidden_layers)
        if "top" in kind and top_layers > layers:
            raise UserError(f"top_layers={top_layers}, but this model has {layers} layers")
        if kind == "cls" and pooler is None:
            raise UserError(f"{type(model).__name__} has no pooler for kind=cls")
        self.pooling = kind  # type: ignore[assignment]  # a name that no other export takes
        self.kind: LayerKind = kind
        self.top_layers, self.use_cls, self.sqrt_len = top_layers, use_cls, sqrt_len
        self.pooler = pooler if kind == "cls" else None
        self.lstm = (
            nn.LSTM(width, width, batch_first=True, bidirectional=True)
            if kind == "bilstm"
            else None
        )
        pooled = width * (top_layers if kind.startswith("concat") else 2 if self.lstm else 1)
        self.dropout = nn.Dropout(dropout)
        self.projection = None if projection_dim is None else nn.Linear(pooled, projection_dim)
        self.num_features = pooled if projection_dim is None else projection_dim

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that rebuild the tower around its model, as plain values."""
        return {
            "kind": self.kind,
            "top_layers": self.top_layers,
            "use_cls": self.use_cls,
            "sqrt_len": self.sqrt_len,
            "dropout": self.dropout.p,
            "projection_dim": None if self.projection is None else self.projection.out_features,
        }

    def own_state(self) -> dict[str, Tensor]:
        """Weights alongside those of the transformer: pooler, LSTM, linear map."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith("model.")}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """Ids and mask (B, L) -> (B, num_features).

        Raises:
            ValueError: no mask.
        """
        if attention_mask is None:
            raise ValueError("pass attention_mask")
        pooled = self.dropout(self._pooled(input_ids, attention_mask, inputs))
        output: Tensor = pooled if self.projection is None else self.projection(pooled)
        return output

    def _pooled(self, ids: Tensor, mask: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        if self.kind == "word_vectors":
            words = self.model.get_input_embeddings()(ids)
            return pool_layers([words], mask, "mean_top_mean", top_layers=1, use_cls=self.use_cls)
        output = self.model(
            input_ids=ids, attention_mask=mask, output_hidden_states="top" in self.kind, **inputs
        )
        if self.pooler is not None:
            first = first_token(output.last_hidden_state, mask)  # wherever the padding is
            vectors: Tensor = self.pooler(first[:, None])
            return vectors
        if self.lstm is not None:
            return self._recurrent(output.last_hidden_state, mask)
        return pool_layers(
            output.hidden_states[1:],
            mask,
            self.kind,  # the first is the embedding layer
            top_layers=self.top_layers,
            use_cls=self.use_cls,
            sqrt_len=self.sqrt_len,
        )

    def _recurrent(self, states: Tensor, mask: Tensor) -> Tensor:
        assert self.lstm is not None
        # packing takes the first ones of a row: real tokens to the left, in their order
        order = mask.ne(0).int().argsort(dim=1, descending=True, stable=True)
        states, mask = states.gather(1, order[..., None].expand_as(states)), mask.gather(1, order)
        lengths = mask.ne(0).sum(1).cpu()
        wide = states.to(torch.promote_types(states.dtype, torch.float32))
        packed = pack_padded_sequence(wide, lengths, True, enforce_sorted=False)
        with torch.autocast(states.device.type, enabled=False):
            read, _ = pad_packed_sequence(self.lstm(packed)[0], True, total_length=mask.shape[1])
        return pool_layers([read], mask, "mean_top_max", top_layers=1, use_cls=self.use_cls)


def layer_encoder(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    attention: Attention = "auto",
    max_length: int | None = None,
    length_groups: int = 1,
    **tower: Any,
) -> SentenceEncoder:
    """A sentence encoder around a `LayerTower`, from a ``pretrained:`` string.

    Args:
        pretrained: see `common.encoders.text.tower.text_tower`.
        config: with "random": the architecture.
        dropout: of the transformer itself; None keeps its own.
        attention: see `common.encoders.text.tower.load_transformer`.
        max_length: see `SentenceEncoder`.
        length_groups: see `SentenceEncoder`.
        tower: options of `LayerTower`; its ``dropout`` is called ``pool_dropout`` here.

    Raises:
        UserError: see `text_tower` and `LayerTower`.
    """
    if pretrained == "random":
        reader = tiny_tokenizer(int((config or {}).get("vocab_size", 256)))
    else:
        reader = load_tokenizer(pretrained)
    model = load_transformer(pretrained, config=config, dropout=dropout, attention=attention)
    options = {("dropout" if name == "pool_dropout" else name): x for name, x in tower.items()}
    built = LayerTower(model, **options)
    return SentenceEncoder(built, reader, max_length=max_length, length_groups=length_groups)

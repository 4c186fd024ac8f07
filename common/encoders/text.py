"""Text towers: a transformer of Hugging Face's library with a pooler, (B, L) ids -> (B, D)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from common.config import UserError
from common.encoders.pooling import POOLINGS, Pooling, pool
from common.encoders.pretrained import PretrainedRef, is_offline, loading, resolve_pretrained

_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)


class TextTower(nn.Module):
    """A transformer without task head, and a pooler.

    Args:
        model: encoder or decoder of transformers (from `AutoModel`); its own pooler is removed.
        pooling: see `common.encoders.pooling.pool`; "cls" adds a new dense layer with tanh.

    Raises:
        ValueError: unknown pooling.
    """

    def __init__(self, model: PreTrainedModel, pooling: Pooling = "avg") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {POOLINGS}, got {pooling!r}")
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # type: ignore[assignment]
        self.model, self.pooling = model, pooling
        self.num_features = int(model.config.hidden_size)
        self.cls_head: nn.Module | None = None
        if pooling == "cls":
            dense = nn.Linear(self.num_features, self.num_features)
            nn.init.normal_(dense.weight, std=getattr(model.config, "initializer_range", 0.02))
            nn.init.zeros_(dense.bias)
            self.cls_head = nn.Sequential(dense, nn.Tanh())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass to save memory."""
        if enable:
            self.model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
        else:
            self.model.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Tensor
    ) -> Tensor:
        """Pooled features.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L), 1 at real tokens; None derives it from the padding id.
            inputs: further inputs of the model, e.g. ``token_type_ids``.

        Returns:
            (B, D), not normalised.

        Raises:
            ValueError: no mask for a model without padding id.
        """
        if attention_mask is None:
            pad = self.model.config.pad_token_id
            if pad is None:
                raise ValueError("this model has no padding id: pass attention_mask")
            attention_mask = input_ids.ne(pad).long()
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=self.pooling in ("avg_first_last", "avg_top2"),
            **inputs,
        )
        states = output.hidden_states or (output.last_hidden_state,)
        features = pool(states, attention_mask, self.pooling)
        return features if self.cls_head is None else self.cls_head(features)


def text_tower(
    pretrained: str,
    pooling: Pooling = "avg",
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
) -> TextTower:
    """Build a text tower from a ``pretrained:`` string.

    Args:
        pretrained: Hugging Face id, folder, ``bundled:<name>`` or ``random``.
        pooling: see `common.encoders.pooling.pool`.
        config: with "random": the architecture, ``model_type`` and its fields, e.g.
            ``{"model_type": "bert", "hidden_size": 256, ...}``.
        dropout: overrides every dropout probability of the model; None keeps them.

    Raises:
        UserError: unknown or absent weights, weights of another architecture, wrong `config`.
    """
    return TextTower(load_transformer(pretrained, config=config, dropout=dropout), pooling)


def load_transformer(
    pretrained: str,
    *,
    config: Mapping[str, Any] | None = None,
    dropout: float | None = None,
    auto_class: Any = AutoModel,
) -> PreTrainedModel:
    """A transformers model in float32; refuses weights that do not fill it.

    Args:
        pretrained: see `text_tower`.
        config: see `text_tower`.
        dropout: see `text_tower`.
        auto_class: e.g. `transformers.AutoModelForCausalLM` for a model with its head.

    Raises:
        UserError: see `text_tower`.
    """
    ref = resolve_pretrained(pretrained)
    if (ref.kind == "random") != (config is not None):
        raise UserError("a text tower needs either pretrained weights, or random and a `config`")
    settings = _architecture(config) if config is not None else _stored_config(ref)
    if dropout is not None:
        _set_dropout(settings, dropout)
    if ref.kind == "random":
        model: PreTrainedModel = auto_class.from_config(settings)
        return model
    with loading(ref):
        model, info = auto_class.from_pretrained(
            _source(ref),
            config=settings,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=ref.path is not None or is_offline(),
        )
    lost = [k for k in info["missing_keys"] if not k.startswith(("pooler.", "lm_head."))]
    lost += [str(key) for key in info["mismatched_keys"]]
    if lost:
        raise UserError(
            f"pretrained={pretrained!r} does not fill {type(model).__name__}: "
            f"{len(lost)} tensors such as {sorted(lost)[0]} would start at random"
        )
    return model


def load_tokenizer(pretrained: str) -> Any:
    """The tokenizer beside the weights of a Hugging Face id, a folder or ``bundled:<name>``.

    Raises:
        UserError: unknown place or no tokenizer there.
    """
    ref = resolve_pretrained(pretrained)
    with loading(ref):
        return AutoTokenizer.from_pretrained(
            _source(ref), local_files_only=ref.path is not None or is_offline()
        )


def _source(ref: PretrainedRef) -> str:
    if ref.kind not in ("huggingface", "folder"):
        raise UserError(
            f"a text tower cannot take pretrained={ref.spec!r}; give a Hugging Face id, a folder "
            "or bundled:<name>"
        )
    return str(ref.path) if ref.path is not None else ref.name


def _stored_config(ref: PretrainedRef) -> Any:
    source = _source(ref)
    with loading(ref):
        return AutoConfig.from_pretrained(
            source, local_files_only=ref.path is not None or is_offline()
        )


def _architecture(config: Mapping[str, Any]) -> Any:
    fields = dict(config)
    kind = fields.pop("model_type", None)
    try:
        return AutoConfig.for_model(kind, **fields)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"config of a text tower, model_type={kind!r}: {error}") from error


def _set_dropout(config: Any, dropout: float) -> None:
    names = [name for name in _DROPOUTS if hasattr(config, name)]
    if not names:
        raise UserError(f"{config.model_type} models have no dropout to set; leave it out")
    for name in names:
        setattr(config, name, dropout)

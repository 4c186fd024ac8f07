"""Networks of a config: generator and discriminator, or a classifier on an encoder."""

from dataclasses import replace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)
from transformers.models.deberta_v2 import modeling_deberta_v2

from common.config import UserError
from common.encoders.modes import untrained
from common.encoders.pretrained import resolve_pretrained, stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_config, load_tokenizer, load_transformer
from common.encoders.text.tuned.classifier import TextClassifier
from projects.vega.config import Config, VegaModel
from projects.vega.encoders.disentangled import (
    disentangled_config,
    disentangled_from_bert,
    shallow,
)
from projects.vega.encoders.replaced_token_detection import ReplacedTokenModel

_ENCODER: Any = AutoModel
_MASKED_LM: Any = AutoModelForMaskedLM
_CLASSIFIER: Any = AutoModelForSequenceClassification
_POOLER: Any = modeling_deberta_v2.ContextPooler
# what `make check` builds for weights that are not on this machine
SIZES = {
    "microsoft/deberta-v3-base": disentangled_config("base"),
    "microsoft/deberta-v3-large": disentangled_config(
        "base",
        num_hidden_layers=24,
        hidden_size=1024,
        num_attention_heads=16,
        intermediate_size=4096,
    ),
    "microsoft/deberta-v2-xlarge": disentangled_config(
        "base",
        num_hidden_layers=24,
        hidden_size=1536,
        num_attention_heads=24,
        intermediate_size=6144,
        conv_kernel_size=3,
    ),
}


def tokenizer_of(model: VegaModel) -> Any:
    """The tokenizer of the weights; without weights the named one, or one without files."""
    if model.pretrained != "random":
        return load_tokenizer(model.pretrained)
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    return tiny_tokenizer(int(random_config(model)["vocab_size"]))


def random_config(model: VegaModel, planned: bool = False) -> dict[str, Any]:
    """The architecture of new weights; its vocabulary is that of a named tokenizer.

    Args:
        model: section of the config.
        planned: of a dry run: the size's own vocabulary where the tokenizer is not on this machine.
    """
    fields = dict(model.config)
    if model.tokenizer is not None and not (planned and reader_is_absent(model)):
        reader = load_tokenizer(model.tokenizer)
        fields |= {"vocab_size": len(reader), "pad_token_id": reader.pad_token_id}
    if model.dropout is not None:
        fields |= {
            "hidden_dropout_prob": model.dropout,
            "attention_probs_dropout_prob": model.dropout,
        }
    return disentangled_config(str(model.size), **fields)


def is_dry() -> bool:
    """Whether only shapes are asked for, on the meta device, as `make check` does.

    A run that is opened again asks for a module too: a stand-in would fit its checkpoint and read
    with another tokenizer.
    """
    return torch.get_default_device().type == "meta"


def reader_is_absent(model: VegaModel) -> bool:
    """Whether the tokenizer is not on this machine."""
    name = model.tokenizer if model.pretrained == "random" else model.pretrained
    return name is not None and not resolve_pretrained(name, require=False).present


def build_pretraining(cfg: Config, planned: bool = False) -> ReplacedTokenModel:
    """Generator and discriminator before training, from the global random state.

    From a BERT both take its content weights, the generator those of its first layers; from a
    masked language model with disentangled attention all of them.

    Raises:
        UserError: absent weights, or an architecture that is neither.
    """
    pretrain, model = cfg.pretrain, cfg.model
    if model.pretrained == "random":
        fields = random_config(model, planned)
        depth = max(1, round(pretrain.generator_depth_ratio * fields["num_hidden_layers"]))
        settings = [
            _settings({**fields, "num_hidden_layers": n})
            for n in (depth, fields["num_hidden_layers"])
        ]
        generator: Any = _MASKED_LM.from_config(settings[0])
        encoder: Any = _ENCODER.from_config(settings[1])
    else:
        kind = load_config(model.pretrained).model_type
        if kind == "bert":
            full: Any = disentangled_from_bert(model.pretrained, **model.config)
        elif kind == "deberta-v2":
            _refuse_config(model)
            full = load_transformer(model.pretrained, auto_class=AutoModelForMaskedLM)
        else:
            raise UserError(
                f"model.pretrained={model.pretrained!r} is {kind}: pre-training starts from"
                " deberta-v2 or bert"
            )
        _set_dropout(full, model.dropout)
        depth = max(1, round(pretrain.generator_depth_ratio * full.config.num_hidden_layers))
        generator, encoder = shallow(full, depth), full.deberta
    return ReplacedTokenModel(
        generator,
        encoder,
        pretrain.embedding_sharing,
        add_cls=pretrain.add_cls,
        temperature=pretrain.temperature,
    ).train()


def build_classifier(cfg: Config, planned: bool = False) -> TextClassifier:
    """The classifier before training, from the global random state.

    Weights of a classifier with disentangled attention, such as the exported folder of a run on
    MNLI, keep their dense layer; its classes do not.

    Raises:
        UserError: absent weights, a pooling that the encoder has not, or another architecture for
            weights.
    """
    model = cfg.model
    if model.pretrained != "random":
        _refuse_config(model)
    absent = stand_in(model.pretrained, SIZES) if planned else None
    if absent is not None:
        backbone: Any = _ENCODER.from_config(_settings(absent))
        model = replace(model, pretrained="random", size="tiny", tokenizer=None)  # any tokenizer
    elif model.pretrained == "random":
        backbone = _ENCODER.from_config(_settings(random_config(model, planned)))
        if planned and reader_is_absent(model):
            model = replace(model, tokenizer=None)
    elif model.pooling == "context" and _is_classifier(model.pretrained):
        whole: Any = load_transformer(
            model.pretrained,
            dropout=model.dropout,
            attention=model.attention,
            auto_class=_CLASSIFIER,
        )
        backbone = whole.deberta
        backbone.pooler = whole.pooler
    else:
        backbone = load_transformer(
            model.pretrained, dropout=model.dropout, attention=model.attention
        )
    if model.pooling == "context":
        if backbone.config.model_type != "deberta-v2":
            raise UserError(
                "model.pooling=context is for encoders with disentangled attention, not for"
                f" {backbone.config.model_type}: use cls or mean"
            )
        if getattr(backbone, "pooler", None) is None:
            backbone.pooler = _POOLER(backbone.config)
            dense = backbone.pooler.dense
            torch.nn.init.normal_(dense.weight, std=backbone.config.initializer_range)
            torch.nn.init.zeros_(dense.bias)
    return TextClassifier(
        backbone,
        tokenizer_of(model),
        cfg.data.glue_task.classes,
        pooling="pooler" if model.pooling == "context" else model.pooling,
        dropout=model.head_dropout,
        max_length=model.max_length,
    ).train()


def first_classifier(cfg: Config) -> TextClassifier:
    """The classifier before fine-tuning, in training mode; the draw depends on the seed alone."""
    return untrained(lambda: build_classifier(cfg), cfg.seed).train()


def first_pretraining(cfg: Config) -> ReplacedTokenModel:
    """Generator and discriminator as pre-training begins."""
    return untrained(lambda: build_pretraining(cfg), cfg.seed).train()


def _is_classifier(pretrained: str) -> bool:
    """Whether the weights are of a classifier with disentangled attention (a dense layer)."""
    kinds = getattr(load_config(pretrained), "architectures", None) or []
    return "DebertaV2ForSequenceClassification" in kinds


def _refuse_config(model: VegaModel) -> None:
    if model.config:
        raise UserError(
            f"model.config: {', '.join(model.config)} cannot change, since"
            f" model.pretrained={model.pretrained!r} has an architecture of its own: leave"
            " model.config out"
        )


def _settings(fields: dict[str, Any]) -> Any:
    sizes = dict(fields)
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


def _set_dropout(model: Any, rate: float | None) -> None:
    if rate is not None:
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = rate
        model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = rate

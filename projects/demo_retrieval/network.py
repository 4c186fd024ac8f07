"""The generator: any encoder-decoder, or a masked language model that gets a decoder."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertLMHeadModel,
    EncoderDecoderModel,
    GenerationConfig,
)

from common.config import UserError
from common.encoders.pretrained import stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_tokenizer, load_transformer
from projects.demo_retrieval.config import Config, GeneratorConfig
from projects.demo_retrieval.template import Encoder

SIZES: dict[str, dict[str, Any]] = {
    "facebook/bart-large": {
        "model_type": "bart",
        "d_model": 1024,
        "encoder_layers": 12,
        "decoder_layers": 12,
        "encoder_attention_heads": 16,
        "decoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "decoder_ffn_dim": 4096,
        "vocab_size": 50265,
        "max_position_embeddings": 1024,
    },
}


def build_generator(model: GeneratorConfig) -> tuple[Any, Any]:
    """Generator and tokenizer, before training.

    Raises:
        UserError: absent or unfitting weights, or a tokenizer that pads nothing.
    """
    if model.encoder is not None:
        network, tokenizer = with_decoder(model)
    elif model.pretrained != "random":
        network = load_transformer(
            model.pretrained, dropout=model.dropout, auto_class=AutoModelForSeq2SeqLM
        )
        tokenizer = load_tokenizer(model.pretrained)
        encoder: Any = getattr(network, "encoder", None)
        if isinstance(network, EncoderDecoderModel) and hasattr(encoder, "pooler"):
            encoder.pooler = None  # see `saved_weights`
    else:
        tokenizer = load_tokenizer(model.tokenizer) if model.tokenizer else tiny_tokenizer(700)
        network = _random(model, tokenizer)
    if tokenizer.pad_token_id is None:
        raise UserError("the generator's tokenizer has no padding token")
    plain_generation(network)
    if model.checkpointing:
        network.gradient_checkpointing_enable()
    network.train()
    return network, tokenizer


def _random(model: GeneratorConfig, tokenizer: Any) -> Any:
    if model.config is None:
        raise UserError("model.pretrained=random needs model.config: model_type and its fields")
    start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.pad_token_id
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": start,
        "eos_token_id": end,
        "decoder_start_token_id": start,
        "forced_eos_token_id": None,
    }
    return load_transformer(
        "random",
        config={**model.config, **ids},
        dropout=model.dropout,
        auto_class=AutoModelForSeq2SeqLM,
    )


def with_decoder(model: GeneratorConfig) -> tuple[Any, Any]:
    """A BERT encoder, and a decoder of its last layers with copied cross-attention.

    Source: Rothe et al. 2020, section 2 (BERT2BERT), arXiv 1907.12461; there cross-attention is
    random.

    Raises:
        UserError: another architecture, or fewer layers than the decoder needs.
    """
    assert model.encoder is not None
    tokenizer = load_tokenizer(model.encoder)
    masked: Any = load_transformer(
        model.encoder, dropout=model.dropout, auto_class=AutoModelForMaskedLM
    )
    encoder = masked.bert if masked.config.model_type == "bert" else None
    if encoder is None or encoder.config.num_hidden_layers < model.decoder_layers:
        raise UserError(
            f"model.encoder={model.encoder} must be of type bert with at least model.decoder_layers"
            " layers"
        )
    settings = copy.deepcopy(masked.config)
    settings.update(
        {"is_decoder": True, "add_cross_attention": True, "num_hidden_layers": model.decoder_layers}
    )
    decoder = BertLMHeadModel(settings)
    weights = {k: v for k, v in masked.state_dict().items() if ".encoder.layer." not in k}
    first = encoder.config.num_hidden_layers - model.decoder_layers
    for name, value in masked.state_dict().items():
        head, mid, rest = name.partition(".encoder.layer.")
        number, _, part = rest.partition(".")
        if not mid or int(number) < first:
            continue
        layer = f"{head}{mid}{int(number) - first}."
        weights[layer + part] = value
        if part.startswith("attention."):
            weights[layer + part.replace("attention.", "crossattention.", 1)] = value
    missing = decoder.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise UserError(f"model.encoder={model.encoder} does not fill a decoder: {missing[0]}")
    network: Any = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    ids = {
        "decoder_start_token_id": tokenizer.cls_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "vocab_size": settings.vocab_size,
    }
    network.config.update(ids)
    network.generation_config.update(**{k: v for k, v in ids.items() if k != "vocab_size"})
    return network, tokenizer


def saved_weights(network: Any) -> dict[str, Tensor]:
    """Weights for `save_pretrained`; the pooler of a pair's encoder is written as zeros.

    The library opens the encoder with a pooler, which no decoder reads, so none is trained here.
    """
    weights: dict[str, Tensor] = network.state_dict()
    encoder: Any = network.encoder if isinstance(network, EncoderDecoderModel) else None
    if encoder is not None and getattr(encoder, "pooler", encoder) is None:
        size = encoder.config.hidden_size
        weights["encoder.pooler.dense.weight"] = torch.zeros(size, size)
        weights["encoder.pooler.dense.bias"] = torch.zeros(size)
    return weights


def plain_generation(network: Any) -> None:
    """Forget how weights were last decoded, but for the special ids.

    The library fills what a call leaves open with the folder's defaults: BART's forbid repeated
    trigrams and force ids at both ends, so a question could not be repeated word for word.
    """
    settings, names = (
        network.generation_config,
        ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"),
    )
    network.generation_config = GenerationConfig(
        **{name: getattr(settings, name) for name in names}
    )


def start_id(network: Any) -> int:
    """Id that the decoder starts with.

    Raises:
        UserError: none is known.
    """
    token = network.config.decoder_start_token_id
    token = token if token is not None else network.generation_config.decoder_start_token_id
    if token is None:
        raise UserError("the generator has no decoder_start_token_id")
    return int(token)


def make_encoder(cfg: Config, network: Any, tokenizer: Any) -> Encoder:
    """Token ids of a config's lengths.

    Raises:
        UserError: more tokens than the generator has positions.
    """
    data = cfg.data
    settings = getattr(network.config, "encoder", network.config)
    places = getattr(settings, "max_position_embeddings", None)
    if places is not None and max(data.max_source, data.max_target) > places:
        raise UserError(
            f"the generator reads {places} tokens: lower data.max_source or data.max_target"
        )
    return Encoder(
        tokenizer,
        start_id(network),
        max_source=data.max_source,
        max_demo=data.max_demo,
        max_target=data.max_target,
        demo_answers=data.demo_answers,
        demo_options=data.demo_options,
        max_options=data.max_options,
    )


def dry_generator(model: GeneratorConfig) -> nn.Module:
    """The generator of `make check`, whose weights may be absent."""
    config = None if model.encoder else stand_in(model.pretrained, SIZES)
    if config is None:
        return build_generator(model)[0]  # type: ignore[no-any-return]
    # fused attention looks at values of masks, which meta tensors have not
    generator: nn.Module = load_transformer(
        "random", config=config, attention="eager", auto_class=AutoModelForSeq2SeqLM
    )
    return generator

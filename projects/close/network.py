"""Networks of a config: the language model that reads vectors, the adapter of its inputs."""

import json
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from common.config import UserError
from common.encoders.pretrained import resolve_pretrained, stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.encoders.text.tower import load_config, load_tokenizer, load_transformer
from projects.close.config import Config, ModelConfig
from projects.close.modality_gap import GapStatistics, TextAdapter, random_shift
from projects.close.vector_to_text import VectorToText

END = "<|endoftext|>"
_T5: dict[str, Any] = {"model_type": "t5", "vocab_size": 32128, "decoder_start_token_id": 0}
SIZES: dict[str, dict[str, Any]] = {
    "t5-small": _T5,
    "t5-base": {**_T5, "d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {**_T5, "d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
}
# joint dimension of dual encoders that a dry run need not load
DIMS = {
    "ViT-L-14": 768,
    "ViT-B-32": 512,
    "RN50": 1024,
    "RN101": 512,
    "RN50x4": 640,
    "RN50x16": 768,
    "RN50x64": 1024,
}


def build_language(model: ModelConfig, vector_dim: int) -> tuple[VectorToText, Any]:
    """The trained part and its tokenizer, before training.

    Raises:
        UserError: absent or unfitting weights, or a tokenizer without an end of text.
    """
    if model.pretrained != "random":
        kind = (
            AutoModelForSeq2SeqLM
            if load_config(model.pretrained).is_encoder_decoder
            else AutoModelForCausalLM
        )
        network = load_transformer(model.pretrained, dropout=model.dropout, auto_class=kind)
        tokenizer = load_tokenizer(model.pretrained)
    else:
        tokenizer = load_tokenizer(model.tokenizer) if model.tokenizer else tiny_tokenizer(400)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = END if END in tokenizer.get_vocab() else tokenizer.sep_token
        network = _random(model, tokenizer)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {model.pretrained} has no end of text, which targets end with"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return VectorToText(network, vector_dim, model.num_tokens, model.num_constants), tokenizer


def _random(model: ModelConfig, tokenizer: Any) -> Any:
    end, fields = tokenizer.eos_token_id, dict(model.config or {})
    encoder_decoder = fields.get("model_type") in ("t5", "bart", "mt5")
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": end,
        "bos_token_id": end,
    }
    if encoder_decoder:
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    return load_transformer(
        "random",
        config={**fields, **ids},
        dropout=model.dropout,
        auto_class=AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM,
    )


def make_adapter(cfg: Config, dim: int, statistics: GapStatistics | None) -> TextAdapter:
    """The adapter of a config.

    Args:
        cfg: the experiment's config.
        dim: D.
        statistics: of pairs, for the kinds that need them.
    """
    options = cfg.method
    if options.adapter == "noise":
        return TextAdapter("noise", options.noise)
    if options.adapter == "random_shift":
        return TextAdapter(
            "shift", options.noise, shift=random_shift(dim, options.shift_scale, cfg.seed)
        )
    if statistics is None:  # a dry run
        statistics = GapStatistics(
            torch.zeros(dim), torch.zeros(dim, dim), torch.eye(dim), torch.zeros(dim)
        )
    if options.adapter == "shift":
        return TextAdapter("shift", options.noise, shift=options.shift_scale * statistics.shift)
    if options.adapter == "linear":
        return TextAdapter("linear", options.noise, weight=statistics.weight, bias=statistics.bias)
    return TextAdapter(
        "covariance",
        options.noise,
        shift=statistics.shift,
        root=statistics.root,
        factor=options.covariance_factor,
    )


def dry_language(model: ModelConfig, dim: int) -> tuple[VectorToText, Any]:
    """The trained part of `make check`, whose weights may be absent."""
    config = stand_in(model.pretrained, SIZES)
    if config is None:
        return build_language(model, dim)
    network = load_transformer("random", config=config, auto_class=AutoModelForSeq2SeqLM)
    return VectorToText(network, dim, model.num_tokens, model.num_constants), None


def clip_dim(clip: str) -> int:
    """Joint dimension of a dual encoder, without its weights."""
    ref = resolve_pretrained(clip, require=False)
    if ref.kind == "open_clip":
        name = ref.name.removesuffix("-quickgelu")
        if name in DIMS:
            return DIMS[name]
        import open_clip

        return int((open_clip.get_model_config(ref.name) or {})["embed_dim"])
    if ref.path is None:
        raise UserError(
            f"model.clip={clip}: give open_clip:<name>/<tag>, bundled:<name> or a folder"
        )
    stored = json.loads((ref.path / "open_clip_config.json").read_text(encoding="utf-8"))
    return int(stored["model_cfg"]["embed_dim"])

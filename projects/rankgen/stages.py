"""Encoders of a config, and what `make check` builds."""

from typing import Any

from common.encoders.pretrained import stand_in
from common.engine.experiment import Plan
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.experiment import text_plan
from projects.rankgen.config import Config
from projects.rankgen.data import num_samples, requirements
from projects.rankgen.encoder import PrefixSuffixEncoder, build_encoder
from projects.rankgen.export import load_encoder, save_encoder
from projects.rankgen.module import RankGen

T5: dict[str, Any] = {
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "vocab_size": 32128,
    "dropout_rate": 0.1,
}
SIZES: dict[str, dict[str, Any]] = {
    "base": {**T5, "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {**T5, "d_model": 1024, "d_kv": 64, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
    "xl": {**T5, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32},
}
# what `make check` builds for weights that are not on this machine
ARCHITECTURES = {
    name: config
    for size, config in SIZES.items()
    for name in (f"google/t5-v1_1-{size}", f"kalpeshk2011/rankgen-t5-{size}-all")
} | {"kalpeshk2011/rankgen-t5-xl-pg19": SIZES["xl"]}


def make_encoder(cfg: Config) -> PrefixSuffixEncoder:
    """Encoder of the config, before training."""
    model = cfg.model
    return build_encoder(
        model.pretrained,
        config=model.config,
        dropout=model.dropout,
        attention=model.attention,
        prefix_length=model.prefix_length,
        suffix_length=model.suffix_length,
        tokenizer=model.tokenizer,
        projection_std=model.projection_std,
        pooling=model.pooling,
        layers=model.layers,
    )


def planned_encoder(cfg: Config) -> PrefixSuffixEncoder:
    """As `make_encoder`, but random weights of the same shape where the weights are not here."""
    model, config = cfg.model, stand_in(cfg.model.pretrained, ARCHITECTURES)
    if config is None:
        return make_encoder(cfg)
    return build_encoder(
        "random",
        config=config,
        prefix_length=model.prefix_length,
        suffix_length=model.suffix_length,
        layers=model.layers,
    )


def recipe_of(cfg: Config) -> EncoderRecipe[PrefixSuffixEncoder]:
    """How the encoder is made, stored and asked: prefixes are queries, suffixes documents."""
    size = cfg.eval.batch_size
    return EncoderRecipe(
        build=lambda: make_encoder(cfg),
        planned=lambda: planned_encoder(cfg),
        save=save_encoder,
        load=load_encoder,
        queries=lambda encoder, texts: encoder.encode(texts, "prefix", size),
        documents=lambda encoder, texts: encoder.encode(texts, "suffix", size),
        metric="dot",
    )


def plan(cfg: Config) -> Plan[RankGen]:
    """What `make check` reports on."""

    def passes(batch_size: int) -> list[tuple[int, int]]:
        model, method = cfg.model, cfg.method
        if method.chunk_size is not None:  # one chunk is alive at a time
            return [(min(batch_size, method.chunk_size), model.prefix_length)]
        sides = 1 if method.negatives == "inbook" else 2
        suffixes = [(batch_size, model.suffix_length)] * sides
        return [(batch_size, model.prefix_length), *suffixes]

    return text_plan(
        cfg,
        recipe_of(cfg),
        lambda encoder: RankGen(cfg, encoder),
        passes=passes,
        run=lambda encoder, ids: encoder.tower.model(input_ids=ids).last_hidden_state,
        num_samples=num_samples(cfg),
        requirements=requirements(cfg),
    )

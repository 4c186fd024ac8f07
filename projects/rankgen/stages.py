"""Encoders of a config, and what `make check` builds."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.encoders.pretrained import stand_in
from common.engine.experiment import Plan, Stage
from projects.rankgen.config import Config
from projects.rankgen.data import build_data, num_samples, requirements
from projects.rankgen.encoder import PrefixSuffixEncoder, build_encoder
from projects.rankgen.module import RankGen

T5: dict[str, Any] = {
    "model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    "vocab_size": 32128, "dropout_rate": 0.1,
}  # fmt: skip
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
    )


def fresh_encoder(cfg: Config) -> PrefixSuffixEncoder:
    """The encoder as it was before training, without touching the random state."""
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        return make_encoder(cfg)


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
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage."""
    encoder = make_encoder(cfg)
    yield Stage("train", RankGen(cfg, encoder), build_data(cfg, encoder))


def plan(cfg: Config) -> Plan[RankGen]:
    """What `make check` reports on."""

    def forward(module: RankGen, batch_size: int) -> Tensor:
        model, lengths = module.encoder.tower.model, module.encoder.lengths
        size = min(batch_size, cfg.method.chunk_size or batch_size)
        sides = [lengths["prefix"]]
        if cfg.method.chunk_size is None:  # else one chunk is alive at a time
            sides += [lengths["suffix"]] * (1 if cfg.method.negatives == "inbook" else 2)
        ids = [torch.ones(size, length, dtype=torch.long) for length in sides]
        # without a mask: transformers looks at its values, and meta tensors have none
        outputs: list[Tensor] = [model(input_ids=x).last_hidden_state.sum() for x in ids]
        return torch.stack(outputs).sum()

    return Plan(
        lambda: RankGen(cfg, planned_encoder(cfg)), num_samples(cfg), forward, requirements(cfg)
    )

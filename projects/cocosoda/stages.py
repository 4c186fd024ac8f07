"""The encoder's recipe, pre-training and fine-tuning, and what `make check` builds."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from common.data.module import ContrastiveData
from common.encoders.pretrained import stand_in
from common.encoders.text.sentence import SentenceEncoder, sentence_encoder
from common.engine.experiment import Plan, Stage
from common.engine.trainer import world_size
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.experiment import text_plan
from projects.cocosoda.config import Config, ModelConfig
from projects.cocosoda.data import requirements, training_data, training_pairs
from projects.cocosoda.encoder import (
    BASES,
    build_encoder,
    encode_codes,
    encode_queries,
    load_encoder,
    prepare_encoder,
    save_encoder,
)
from projects.cocosoda.module import CoCoSoDa


def planned_encoder(model: ModelConfig) -> SentenceEncoder:
    """As `build_encoder`, but random weights of the same shape where the weights are not here."""
    config = stand_in(model.pretrained, BASES)
    if config is None:
        return build_encoder(model)
    shape = sentence_encoder("random", model.pooling, config=config)
    return prepare_encoder(shape, replace(model, prefix=None))


def recipe_of(cfg: Config) -> EncoderRecipe[SentenceEncoder]:
    """The project's encoder: mean pooling, cosine; the two sides differ in their length alone."""
    model, size = cfg.model, cfg.eval.batch_size
    return EncoderRecipe(
        lambda: build_encoder(model),
        lambda: planned_encoder(model),
        save_encoder,
        lambda folder: load_encoder(model, folder),
        lambda encoder, texts: encode_queries(encoder, model, texts, size),
        lambda encoder, texts: encode_codes(encoder, model, texts, size),
    )


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "pretrain", unless the config goes without, and "finetune" if it is asked for.

    With validation the checkpoint of the best mean MRR over the languages is kept. Fine-tuning of
    whole epochs is validated after each of them, and of fewer steps than
    `trainer.val_every_n_steps` at its end.
    """
    encoder = recipe_of(cfg).build()
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/mrr"
    if cfg.method.pretrain:
        data = training_data(cfg, encoder, finetune=False)
        yield Stage("pretrain", CoCoSoDa(cfg, encoder), data, monitor=monitor)
    if cfg.finetune.wanted:
        length: dict[str, Any] = {
            "max_steps": cfg.finetune.steps or None,
            "max_epochs": cfg.finetune.epochs,
        }
        module = CoCoSoDa(cfg, encoder, finetune=True)
        data = training_data(cfg, encoder, finetune=True)
        if monitor is not None:
            length["val_every_n_steps"] = validated_every(cfg, data)
        yield Stage("finetune", module, data, length, monitor=monitor)


def validated_every(cfg: Config, data: ContrastiveData) -> int:
    """Steps of the fine-tuning between validations.

    There is always one, which the choice of a checkpoint needs.
    """
    options = cfg.finetune
    if options.epochs is None:
        return min(cfg.trainer.val_every_n_steps or options.steps, options.steps)
    batches = data.batches_per_epoch(world_size(cfg.trainer)) or 1
    epoch = batches / cfg.trainer.accumulate_grad_batches
    return max(1, math.floor(min(options.epochs, 1.0) * epoch))


def plan(cfg: Config) -> Plan[CoCoSoDa]:
    """What `make check` reports on: the last stage, whose weights are kept."""
    needed = requirements(cfg)
    here = all(r.present for r in needed if r.name.startswith("data"))
    samples = sum(len(pairs) for pairs in training_pairs(cfg).values()) if here else 0

    def run(encoder: SentenceEncoder, ids: Tensor) -> Tensor:
        output: Tensor = encoder.tower.model(input_ids=ids).last_hidden_state
        return torch.sum(output)

    return text_plan(
        cfg,
        recipe_of(cfg),
        lambda encoder: CoCoSoDa(cfg, encoder, finetune=cfg.finetune.wanted),
        passes=lambda size: [(size, cfg.model.code_length), (size, cfg.model.query_length)],
        run=run,
        num_samples=samples,
        requirements=needed,
    )

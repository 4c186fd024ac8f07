"""Retrieval with in-batch negatives, then all sets without: the stages of an experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.config import UserError
from common.encoders.pretrained import stand_in
from common.encoders.text.tiny_tokenizer import tiny_tokenizer
from common.engine.experiment import Plan, Stage, weights_requirement
from common.families.retrieval.encoder import EncoderRecipe
from common.families.retrieval.experiment import text_plan
from projects.nv_embed.config import Config, ModelConfig
from projects.nv_embed.data.records import EmbeddingTask
from projects.nv_embed.data.training_sets import (
    num_samples,
    set_requirements,
    stage_data,
    training_tasks,
)
from projects.nv_embed.encoder.exported import load_instructed, save_instructed
from projects.nv_embed.encoder.instructed import InstructedEncoder, instructed_encoder
from projects.nv_embed.module import NvEmbed
from projects.nv_embed.released import is_released, load_released, released_encoder

# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "mistralai/Mistral-7B-v0.1": {"model_type": "mistral"},  # the defaults of that class
    "meta-llama/Llama-2-7b-hf": {"model_type": "llama"},
    "nvidia/NV-Embed-v1": {"model_type": "mistral"},
    "nvidia/NV-Embed-v2": {"model_type": "mistral"},
}


class StagePlan(NamedTuple):
    """One stage: its sets and its objective."""

    name: str
    retrieval_only: bool
    in_batch: bool
    steps: int


def stage_plans(cfg: Config) -> list[StagePlan]:
    """The stages of the config's schedule; the steps are trainer.max_steps in all."""
    total, first = cfg.trainer.max_steps or 0, cfg.method.stage_1_steps
    retrieval = StagePlan("retrieval", True, True, first)
    blended = StagePlan("blended", False, False, total - first)
    return {
        "two_stage": [retrieval, blended],
        "reversed": [blended, retrieval],
        "single": [StagePlan("single", False, False, total)],
        "single_in_batch": [StagePlan("single", False, True, total)],
    }[cfg.method.schedule]


def stages(cfg: Config) -> Iterator[Stage]:
    """Each stage goes on with the weights of the one before, with a new optimiser and schedule."""
    tasks = training_tasks(trained_on(cfg))
    encoder = build_encoder(cfg.model)
    module: NvEmbed | None = None
    for stage in stage_plans(cfg):
        before, module = module, NvEmbed(cfg, encoder, in_batch=stage.in_batch)
        if before is not None:
            module.continue_counts(before)
        chosen = of_stage(tasks, retrieval_only=stage.retrieval_only)
        data = stage_data(cfg, encoder, chosen)
        yield Stage(stage.name, module, data, {"max_steps": stage.steps})


def trained_on(cfg: Config) -> Config:
    """The config without the sets of ``method.without``."""
    sets = {
        name: source for name, source in cfg.data.sets.items() if name not in cfg.method.without
    }
    return replace(cfg, data=replace(cfg.data, sets=sets), method=replace(cfg.method, without=[]))


def of_stage(tasks: list[EmbeddingTask], *, retrieval_only: bool) -> list[EmbeddingTask]:
    """The sets of a stage.

    Raises:
        UserError: there is none.
    """
    chosen = [task for task in tasks if task.kind == "retrieval" or not retrieval_only]
    if not chosen:
        raise UserError("data.sets has no retrieval set for the stage with in-batch negatives")
    return chosen


def build_encoder(
    model: ModelConfig, pretrained: str | None = None, **options: Any
) -> InstructedEncoder:
    """The encoder of the config, before training.

    Args:
        model: the config's section.
        pretrained: instead of the config's.
        options: instead of the config's, see `instructed_encoder`.

    Raises:
        UserError: see `instructed_encoder` and `released_encoder`.
    """
    targets = model.lora_targets
    chosen: dict[str, Any] = {
        "config": model.config,
        "pooling": model.pooling,
        "num_latents": model.num_latents,
        "heads": model.heads,
        "dim_head": model.dim_head,
        "causal": model.causal,
        "lora_rank": model.lora_rank,
        "lora_alpha": model.lora_alpha,
        "lora_dropout": model.lora_dropout,
        "lora_targets": targets if targets == "all-linear" else targets.split(","),
        "max_length": model.max_length,
        "span": model.instruction_span,
        "attention": model.attention,
        "dtype": getattr(torch, model.weights),
    }
    place = pretrained or model.pretrained
    build = released_encoder if is_released(place) else instructed_encoder
    encoder = build(place, **{**chosen, **options})
    encoder.length_groups = model.length_groups
    # peft makes adapters in the frozen weights' type; a step of 2e-5 is lost in bfloat16
    for parameter in encoder.model.parameters() if model.lora_rank is not None else ():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if model.grad_checkpointing:
        encoder.set_grad_checkpointing()
    return encoder


def load_encoder(folder: str | Path, model: ModelConfig) -> InstructedEncoder:
    """An exported encoder, or a released checkpoint, which takes length and span from the config.

    Raises:
        UserError: neither of them.
    """
    if is_released(str(folder)):
        return load_released(str(folder), max_length=model.max_length, span=model.instruction_span)
    return load_instructed(folder)


def planned_encoder(model: ModelConfig) -> InstructedEncoder:
    """As `build_encoder`, but random weights of the same shape where the weights are not here.

    Raises:
        UserError: absent weights of unknown size.
    """
    config = stand_in(model.pretrained, ARCHITECTURES)
    if config is None:
        return build_encoder(model)
    return build_encoder(model, "random", config=config, tokenizer=tiny_tokenizer())


def recipe_of(cfg: Config) -> EncoderRecipe[InstructedEncoder]:
    """How the encoder is made, stored and asked; queries outside training have no instruction."""

    def planned() -> InstructedEncoder:
        # without recomputation, whose saving the estimate of `make check` shows alongside
        return planned_encoder(replace(cfg.model, grad_checkpointing=False))

    def queries(encoder: InstructedEncoder, texts: Sequence[str]) -> Tensor:
        return encoder.encode(texts, cfg.eval.batch_size, instruction=cfg.eval.instruction)

    def documents(encoder: InstructedEncoder, texts: Sequence[str]) -> Tensor:
        return encoder.encode(texts, cfg.eval.batch_size)

    return EncoderRecipe(
        build=lambda: build_encoder(cfg.model),
        planned=planned,
        save=save_instructed,
        load=lambda folder: load_encoder(folder, cfg.model),
        queries=queries,
        documents=documents,
    )


def plan(cfg: Config) -> Plan[NvEmbed]:
    """What `make check` reports on: the first stage's batch through the whole model."""
    stage = stage_plans(cfg)[0]

    def run(encoder: InstructedEncoder, ids: Tensor) -> Tensor:
        states = encoder.model(input_ids=ids).last_hidden_state
        pooled: Tensor = encoder.pooler(states, ids, ids)
        return pooled

    cfg = trained_on(cfg)
    needed = (*weights_requirement(cfg.model.pretrained), *set_requirements(cfg))
    samples = 0
    if all(r.present for r in needed if r.name.startswith("data")):
        tasks = of_stage(training_tasks(cfg, mine=False), retrieval_only=stage.retrieval_only)
        samples = sum(num_samples(cfg, tasks))
    return text_plan(
        cfg,
        recipe_of(cfg),
        lambda encoder: NvEmbed(cfg, encoder, in_batch=stage.in_batch),
        passes=lambda size: [(size * (2 + cfg.data.num_negatives), cfg.data.max_length)],
        run=run,
        num_samples=samples,
        requirements=needed,
    )

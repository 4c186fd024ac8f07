"""Stages of an experiment, and what `make check` builds."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from common.config import UserError, to_dict
from common.encoders.pretrained import stand_in
from common.engine.experiment import Plan, Requirement, Stage
from common.engine.lifecycle.kept_weights import keep_weights, kept_path
from common.engine.module import freeze
from common.families.retrieval.evaluation import SYNTHETIC, beir_folder
from common.families.retrieval.experiment import PROBES
from projects.promptreps.answer import AnswerModule
from projects.promptreps.config import Config
from projects.promptreps.data import (
    answer_data,
    file_of,
    questions,
    requirements,
    supervised_data,
    worded_texts,
)
from projects.promptreps.encoder import PromptRepsEncoder, build_encoder
from projects.promptreps.module import PromptReps
from projects.promptreps.prompt import ROLES

_LLAMA: dict[str, Any] = {"model_type": "llama", "vocab_size": 128256, "num_key_value_heads": 8}
# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        **_LLAMA,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
    },
    "meta-llama/Meta-Llama-3-70B-Instruct": {
        **_LLAMA,
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "intermediate_size": 28672,
        "max_position_embeddings": 8192,
    },
    "mistralai/Mistral-7B-Instruct-v0.2": {"model_type": "mistral"},
    "microsoft/Phi-3-mini-4k-instruct": {"model_type": "phi3", "pad_token_id": 32000},
}


def stages(cfg: Config) -> Iterator[Stage]:
    """The answer stage if it has steps, the supervised one if it is asked for.

    Raises:
        UserError: zero-shot without a stage: there is nothing to train.
    """
    if not cfg.instruct.steps and not cfg.method.supervised:
        raise UserError(
            "zero-shot: nothing is trained; score the model with `make run PROJECT=promptreps "
            "CONFIG=... TASK=evaluate`, or set method.supervised=true"
        )
    encoder = build_encoder(cfg.model)
    if cfg.instruct.steps:
        steps = {"max_steps": cfg.instruct.steps, "max_epochs": None}
        module, kept = AnswerModule(cfg, encoder), kept_answers(cfg) if cfg.instruct.keep else None
        cached = kept if kept is not None and kept.is_file() else None
        yield Stage("answer", module, answer_data(cfg, encoder), steps, weights=cached)
        if kept is not None:
            keep_weights(kept, module)
    if cfg.method.supervised:
        tuned = PromptReps(cfg, encoder, lora=True)
        yield Stage("supervised", tuned, supervised_data(cfg, encoder))


def kept_answers(cfg: Config) -> Path:
    """Where the weights of this answer stage are kept: neither ranking nor what is read counts."""
    plain = to_dict(cfg)
    model = {name: value for name, value in plain["model"].items() if name != "representation"}
    model["prompt"] = {**model["prompt"], "framed": cfg.instruct.framed}
    parts = {name: plain[name] for name in ("instruct", "optim", "trainer", "seed")}
    file = None if cfg.instruct.file is None else file_of(cfg, cfg.instruct.file)
    content = file.read_bytes() if file is not None and file.is_file() else b""
    parts |= {"model": model, "root": cfg.data.root, "file": hashlib.sha256(content).hexdigest()}
    return kept_path(Path(cfg.runs_dir) / "promptreps" / "answers", "answer", "promptreps", parts)


def zero_shot_encoder(cfg: Config, pretrained: str | None = None) -> PromptRepsEncoder:
    """The language model as it is, frozen and in evaluation mode."""
    encoder = build_encoder(cfg.model, pretrained)
    freeze(encoder)
    return encoder


def embed(encoder: PromptRepsEncoder) -> dict[str, Tensor]:
    """Dense vectors and token weights of a small fixed input, to be compared after a reload."""
    tensors: dict[str, Tensor] = {}
    for role in ROLES:
        encoded = encoder.encode(PROBES, role)
        table = torch.zeros(len(encoded["sparse"]), encoder.lm.vocab_size)
        for row, vector in zip(table, encoded["sparse"], strict=True):
            row[list(vector)] = torch.tensor(list(vector.values())).float() / 100
        tensors |= {f"{role}_dense": encoded["dense"], f"{role}_sparse": table}
    return tensors


def plan(cfg: Config) -> Plan[PromptReps]:
    """What `make check` reports on: the last stage."""
    needed = requirements(cfg)
    sizes = stand_in(cfg.model.pretrained, ARCHITECTURES)
    samples = 0
    if all(r.present for r in needed if r.name.startswith("data")):
        supervised = cfg.method.supervised
        samples = (
            len(questions(cfg))
            if supervised
            else len(worded_texts(cfg))
            if cfg.instruct.steps
            else 0
        )

    def module() -> PromptReps:
        encoder = build_encoder(cfg.model, stand_in=sizes)
        if not (cfg.instruct.steps or cfg.method.supervised):
            freeze(encoder)
        return PromptReps(cfg, encoder, lora=cfg.method.supervised)

    def forward(built: PromptReps, batch_size: int) -> Tensor:
        frame = max(sum(map(len, frame_parts)) for frame_parts in built.encoder.frames.values())
        rows, length = batch_size, cfg.model.representation.passage_length
        if cfg.method.supervised:
            rows, length = batch_size * (1 + cfg.data.group_size), cfg.data.passage_length
        ids = torch.ones(rows, frame + length, dtype=torch.long)
        # an empty cache: without it transformers looks at the values of positions, and meta has
        # none
        states = built.encoder.lm.model.base_model(
            input_ids=ids, past_key_values=DynamicCache()
        ).last_hidden_state
        return built.encoder.lm.logits(states[:, -1]).sum()

    places = [name for name in (*cfg.eval.beir, *cfg.eval.dev) if name != SYNTHETIC]
    sets = [
        Requirement(
            f"data: {name} (evaluation)", str(path), path.is_dir(), "a folder in the BEIR layout"
        )
        for name, path in ((name, beir_folder(cfg, name)) for name in places)
    ]
    return Plan(module, samples, forward, (*needed, *sets), spread=cfg.model.spread)

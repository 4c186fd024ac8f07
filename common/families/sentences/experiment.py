"""Data, module, evaluation, export and tasks put together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.workspace import Workspace
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder
from common.families.sentences.data import sentence_data, text_requirements, text_rows
from common.families.sentences.evaluation import evaluate_sentences
from common.families.sentences.module import S, SentenceModule, build_encoder, planned_encoder
from common.families.sentences.protocol import SentenceExperimentConfig
from common.families.sentences.search import search_sentences

PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]


def sentence_experiment(
    cfg: SentenceExperimentConfig,
    make_module: Callable[[SentenceEncoder], S],
    make_train: Callable[[SentenceEncoder], TextViews],
    *,
    evaluate: Callable[[S, Workspace], dict[str, float]] | None = None,
    stages: Callable[[], Iterator[Stage]] | None = None,
    tasks: Mapping[str, Callable[[Workspace], None]] | None = None,
    requirements: Callable[[], Iterable[Requirement]] = tuple,
    num_samples: Callable[[], int] | None = None,
    num_views: int = 2,
) -> Experiment[S]:
    """Experiment of a sentence encoder.

    What a project does otherwise it hands over as a function made of the family's pieces
    (`evaluate_sentences`, `before_and_after`, `train_stage`, `first_encoder`, ...); an experiment
    that also exports something else is ``dataclasses.replace(sentence_experiment(...), export=...)``.

    Args:
        cfg: the project's config.
        make_module: module around an encoder.
        make_train: training set, given the encoder (for its tokenizer).
        evaluate: all metrics of a trained module; None: `evaluate_sentences`.
        stages: replaces the single stage "train"; the last stage's module is one of `make_module`,
            earlier ones may be of any kind.
        tasks: beside "search".
        requirements: weights and data beside those of the shared config sections.
        num_samples: training rows for `make check`; None counts the rows that are on disk.
        num_views: rows that the encoder sees per sample, for the memory estimate.
    """

    def one_stage() -> Iterator[Stage]:
        encoder = build_encoder(cfg.model)
        yield train_stage(cfg, make_module(encoder), make_train(encoder))

    def metrics(module: S, workspace: Workspace) -> dict[str, float]:
        return (evaluate or shared_evaluation)(module, workspace)

    def shared_evaluation(module: S, workspace: Workspace) -> dict[str, float]:
        return evaluate_sentences(cfg, module, workspace)

    def export(module: S, folder: Path) -> None:
        save_sentence_encoder(module.encoder, folder)

    def embed(module: S) -> dict[str, Tensor]:
        return {"embeddings": module.encoder.encode(PROBES)}

    def forward(module: S, batch_size: int) -> Tensor:
        ids = torch.ones(num_views * batch_size, cfg.data.max_length, dtype=torch.long)
        # without a mask: transformers looks at its values, and meta tensors have none
        output: Tensor = module.encoder.tower.model(input_ids=ids).last_hidden_state
        return output.sum()

    def plan() -> Plan[S]:
        needed = (*text_requirements(cfg), *requirements())
        here = all(r.present for r in needed if r.name.startswith("data"))
        rows = num_samples() if num_samples else (len(text_rows(cfg.data, cfg.seed)) if here else 0)
        return Plan(lambda: make_module(planned_encoder(cfg.model)), rows, forward, needed)

    def search(workspace: Workspace) -> None:
        search_sentences(cfg, workspace, experiment)

    experiment = Experiment(
        stages or one_stage,
        metrics,
        export,
        lambda folder: make_module(load_sentence_encoder(folder)),
        embed,
        plan,
        {"search": search, **(tasks or {})},
    )
    return experiment


def train_stage(
    cfg: SentenceExperimentConfig,
    module: SentenceModule,
    train: TextViews,
    name: str = "train",
    trainer: Mapping[str, Any] | None = None,
) -> Stage:
    """Stage whose best checkpoint on the STS development set is kept, if the config validates."""
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/sts_spearman"
    return Stage(name, module, sentence_data(cfg, train), trainer or {}, monitor)

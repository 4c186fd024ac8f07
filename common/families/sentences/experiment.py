"""Data, module, evaluation, export and tasks put together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from common.data.layouts import Layout
from common.data.text.views import TextViews
from common.encoders.text.sentence import SentenceEncoder
from common.engine.experiment import Experiment, Plan, Requirement, Stage
from common.engine.node import sample_seconds
from common.engine.own_texts import Rows, judge_labelled, judge_queries
from common.engine.workspace import Workspace
from common.export.sentence_encoders import load_sentence_encoder, save_sentence_encoder
from common.families.sentences.data import sentence_data, text_requirements, text_rows
from common.families.sentences.evaluation import (
    encoding,
    evaluate_sentences,
    untrained_encoder,
)
from common.families.sentences.module import S, SentenceModule, build_encoder, planned_encoder
from common.families.sentences.protocol import SentenceExperimentConfig
from common.families.sentences.search import search_sentences

C = TypeVar("C", bound=SentenceExperimentConfig)
PROBES = ["A small cat sleeps.", "Two men are repairing the roof of an old house."]


def sentence_experiment(
    cfg: C,
    make_module: Callable[[C, SentenceEncoder], S],
    make_train: Callable[[C, SentenceEncoder], TextViews],
    *,
    evaluate: Callable[[C, S, Workspace], dict[str, float]] | None = None,
    stages: Callable[[C], Iterator[Stage]] | None = None,
    tasks: Mapping[str, Callable[[C, Workspace], object]] | None = None,
    requirements: Callable[[C], Iterable[Requirement]] | None = None,
    num_samples: Callable[[C], int] | None = None,
    num_views: int = 2,
) -> Experiment[S]:
    """Experiment of a sentence encoder.

    What a project does otherwise it hands over as a function of its config, made of the family's
    pieces (`evaluate_sentences`, `before_and_after`, `train_stage`, `first_encoder`, ...); an
    experiment that also exports something else is
    ``dataclasses.replace(sentence_experiment(...), export=...)``.

    Args:
        cfg: the project's config.
        make_module: module around an encoder.
        make_train: training set, given the encoder (for its tokenizer).
        evaluate: all metrics of a trained module; None: `evaluate_sentences`.
        stages: replaces the single stage "train"; the last stage's module is one of `make_module`,
            earlier ones may be of any kind.
        tasks: alongside "search".
        requirements: weights and data alongside those of the shared config sections.
        num_samples: training rows for `make check`; None counts the rows that are on disk.
        num_views: rows that the encoder sees per sample, for the memory estimate.
    """

    def one_stage() -> Iterator[Stage]:
        encoder = build_encoder(cfg.model)
        yield train_stage(cfg, make_module(cfg, encoder), make_train(cfg, encoder))

    def metrics(module: S, workspace: Workspace) -> dict[str, float]:
        return (evaluate or evaluate_sentences)(cfg, module, workspace)

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
        needed = (*text_requirements(cfg), *(requirements(cfg) if requirements else ()))
        here = all(r.present for r in needed if r.name.startswith("data"))
        rows = len(text_rows(cfg.data, cfg.seed)) if here and num_samples is None else 0
        rows = num_samples(cfg) if num_samples else rows
        return Plan(
            lambda: make_module(cfg, planned_encoder(cfg.model)),
            rows,
            forward,
            needed,
            loader_seconds=sample_seconds(texts=num_views),
        )

    def rows(module: S) -> Rows:
        trained: Rows = {"": encoding(cfg, module.encoder)}
        if not cfg.eval.untrained:
            return trained
        return {**trained, "untrained_": encoding(cfg, untrained_encoder(cfg, module))}

    def search(workspace: Workspace) -> None:
        search_sentences(cfg, workspace, experiment)

    experiment = Experiment(
        partial(stages, cfg) if stages else one_stage,
        metrics,
        export,
        lambda folder: make_module(cfg, load_sentence_encoder(folder)),
        embed,
        plan,
        {"search": search, **{name: partial(task, cfg) for name, task in (tasks or {}).items()}},
        {
            Layout.PAIRS: lambda module, workspace, _: evaluate_sentences(cfg, module, workspace),
            Layout.LABELLED: lambda m, workspace, path: judge_labelled(rows(m), workspace, path),
            Layout.JUDGED: lambda m, workspace, path: judge_queries(rows(m), workspace, path),
        },
    )
    return experiment


def train_stage(
    cfg: SentenceExperimentConfig,
    module: SentenceModule,
    train: TextViews,
    name: str = "train",
) -> Stage:
    """Stage whose best checkpoint on the STS development set is kept, if the config validates."""
    monitor = None if cfg.trainer.val_every_n_steps is None else "val/sts_spearman"
    return Stage(name, module, sentence_data(cfg, train), monitor=monitor)

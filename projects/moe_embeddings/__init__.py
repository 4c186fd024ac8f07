"""Experts for domains in one embedding model, trained on co-cited papers (Hallee et al., 2024)."""

from typing import TYPE_CHECKING

from projects.moe_embeddings.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.moe_embeddings.encoder import DomainEncoder
    from projects.moe_embeddings.module import MoeEmbeddings

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[MoeEmbeddings]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from common.engine.own_texts import judge_labelled, judge_pairs, judge_queries
    from projects.moe_embeddings import stages, tasks
    from projects.moe_embeddings.evaluate import evaluate, judge_texts

    experiment = experiment_of(
        cfg,
        stages.stages,
        evaluate,
        stages.export,
        stages.load_export,
        stages.embed,
        stages.plan,
        {"pairs": tasks.pairs},
    )
    with_model = {"embed": tasks.embed, "search": tasks.search}
    bound = {name: partial(task, cfg, experiment) for name, task in with_model.items()}
    judges = {
        layout: partial(judge_texts, cfg, judge)
        for layout, judge in (
            (Layout.PAIRS, judge_pairs),
            (Layout.LABELLED, judge_labelled),
            (Layout.JUDGED, judge_queries),
        )
    }
    return replace(experiment, tasks={**experiment.tasks, **bound}, judges=judges)


def load(folder: "Path") -> "DomainEncoder":
    """The encoder of an exported folder."""
    from projects.moe_embeddings.export import load_encoder

    return load_encoder(folder)

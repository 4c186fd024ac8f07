"""Meta-training with demonstration retrieval for few-shot learning (Mueller et al., 2023)."""

from typing import TYPE_CHECKING

from projects.demo_retrieval.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.demo_retrieval.inference import Answerer
    from projects.demo_retrieval.module import DemoRetrieval

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DemoRetrieval]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.data.layouts import Layout
    from common.engine.experiment import experiment_of
    from projects.demo_retrieval import folder, stages, tasks
    from projects.demo_retrieval.evaluate import evaluate
    from projects.demo_retrieval.own_texts import judge_texts

    experiment: Experiment[DemoRetrieval] = experiment_of(
        cfg,
        stages.stages,
        evaluate,
        folder.export,
        folder.load,
        folder.embed,
        stages.plan,
        {"answer": tasks.answer, "few_shot": tasks.few_shot, "prepare": tasks.prepare},
    )
    return replace(experiment, judges={Layout.LABELLED: partial(judge_texts, cfg)})


def load(folder: "Path") -> "Answerer":
    """Generator, retriever and bank of an exported folder."""
    from projects.demo_retrieval.inference import Answerer

    return Answerer(folder)

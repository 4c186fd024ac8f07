"""Contriever: unsupervised dense retrieval from crops and a queue (Izacard et al., TMLR 2022)."""

from typing import TYPE_CHECKING

from projects.contriever.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.contriever.module import Contriever

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Contriever]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import retrieval_experiment
    from projects.contriever import tasks
    from projects.contriever.evaluate import evaluate, search_texts
    from projects.contriever.module import Contriever
    from projects.contriever.stages import plan, recipe_of, stages

    return retrieval_experiment(
        cfg,
        recipe_of(cfg),
        Contriever,
        stages=stages,
        evaluate=lambda cfg, module, workspace: evaluate(cfg, module),
        plan=plan,
        texts=search_texts,
        tasks={"tokenize": tasks.tokenize},
        model_tasks={"mine": tasks.mine},
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder, which prepares texts as in evaluation."""
    from projects.contriever.exported import load_prepared

    return load_prepared(folder)

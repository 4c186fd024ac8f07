"""CoCoSoDa: code search with soft data augmentation and momentum contrast (Shi et al. 2023)."""

from typing import TYPE_CHECKING

from projects.cocosoda.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.cocosoda.module import CoCoSoDa

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[CoCoSoDa]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import retrieval_experiment
    from projects.cocosoda import stages, tasks
    from projects.cocosoda.evaluate import evaluate
    from projects.cocosoda.module import CoCoSoDa

    return retrieval_experiment(
        cfg,
        stages.recipe_of(cfg),
        CoCoSoDa,
        stages=stages.stages,
        evaluate=evaluate,
        plan=stages.plan,
        texts=tasks.bundled_codes,
        tasks={"prepare": tasks.prepare},
        model_tasks={"search": tasks.search},
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_transformers import load_sentence_transformers

    return load_sentence_transformers(folder)

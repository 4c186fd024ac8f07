"""CCP: sentence vectors of many languages from the context of sentences (Wu et al., IJCAI 2022)."""

from typing import TYPE_CHECKING

from projects.ccp.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from common.engine.module import ContrastiveModule

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[ContrastiveModule]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import retrieval_experiment
    from projects.ccp import tasks
    from projects.ccp.evaluate import evaluate, search_texts
    from projects.ccp.sets import sets
    from projects.ccp.stages import loaded_module, plan, stages
    from projects.ccp.towers import recipe_of

    return retrieval_experiment(
        cfg,
        recipe_of(cfg),
        loaded_module,
        stages=stages,
        evaluate=evaluate,
        plan=plan,
        texts=search_texts,
        tasks={"split": tasks.split, "sets": sets},
        model_tasks={"calibrate": tasks.calibrate},
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_transformers import load_sentence_transformers

    return load_sentence_transformers(folder)

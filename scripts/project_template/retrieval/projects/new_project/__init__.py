"""NewProject: what the paper does in one line (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.new_project.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.new_project.module import NewProject

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[NewProject]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.retrieval.experiment import retrieval_experiment
    from projects.new_project.module import NewProject
    from projects.new_project.stages import plan, recipe_of, search_texts, stages

    return retrieval_experiment(
        cfg,
        recipe_of(cfg),
        NewProject,
        stages=stages,
        evaluate=lambda cfg, module, workspace: {},  # alongside the sets of eval.beir
        plan=plan,
        texts=search_texts,
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The encoder of an exported folder, as `common.models.load` returns it."""
    from common.export.sentence_transformers import load_sentence_transformers

    return load_sentence_transformers(folder)

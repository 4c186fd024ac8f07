"""The arena of retrieval: two crops of every chunk of text under a contestant's loss."""

from typing import TYPE_CHECKING

from arena.retrieval.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from arena.retrieval.module import Contest
    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Contest]":
    """The experiment of a config; heavy imports happen here."""
    from arena.retrieval.data import plan, recipe_of, stages, texts
    from arena.retrieval.module import Contest
    from common.families.retrieval.experiment import retrieval_experiment

    return retrieval_experiment(
        cfg,
        recipe_of(cfg),
        Contest,
        stages=stages,
        evaluate=lambda cfg, module, workspace: {},
        plan=plan,
        texts=texts,
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_transformers import load_sentence_transformers

    return load_sentence_transformers(folder)

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
    from common.families.sentences.experiment import sentence_experiment
    from projects.new_project.data import train_set
    from projects.new_project.module import NewProject

    return sentence_experiment(cfg, NewProject, train_set)


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder, as `common.models.load` returns it."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

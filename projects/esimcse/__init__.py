"""ESimCSE: word repetition and a momentum queue for sentence embeddings (Wu et al. 2022)."""

from typing import TYPE_CHECKING

from projects.esimcse.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.esimcse.module import ESimCSE

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[ESimCSE]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.sentences.experiment import sentence_experiment
    from projects.esimcse.data import training_views
    from projects.esimcse.evaluate import evaluate
    from projects.esimcse.module import ESimCSE

    return sentence_experiment(cfg, ESimCSE, training_views, evaluate=evaluate)


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

"""The arena of sentences: two dropout masks of every sentence under a contestant's loss."""

from typing import TYPE_CHECKING

from arena.sentences.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from arena.sentences.module import Contest
    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Contest]":
    """The experiment of a config; heavy imports happen here."""
    from arena.sentences.data import train_set
    from arena.sentences.module import Contest
    from common.families.sentences.experiment import sentence_experiment

    return sentence_experiment(cfg, Contest, train_set)


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

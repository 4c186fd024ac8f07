"""WhitenedCSE: shuffled group whitening and several positives (Zhuo et al., ACL 2023)."""

from typing import TYPE_CHECKING

from projects.whitenedcse.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.whitenedcse.module import WhitenedCSE

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[WhitenedCSE]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.sentences.experiment import sentence_experiment
    from projects.whitenedcse.data import train_set
    from projects.whitenedcse.evaluate import evaluate
    from projects.whitenedcse.module import WhitenedCSE

    return sentence_experiment(
        cfg, WhitenedCSE, train_set, evaluate=evaluate, num_views=cfg.num_pos
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

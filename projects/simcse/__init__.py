"""SimCSE: dropout and NLI pairs as positives for sentence embeddings (Gao et al., EMNLP 2021)."""

from typing import TYPE_CHECKING

from projects.simcse.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.simcse.module import SimCSE

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[SimCSE]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.sentences.experiment import sentence_experiment
    from projects.simcse.data import num_views, train_set
    from projects.simcse.module import SimCSE

    return sentence_experiment(
        cfg,
        SimCSE,
        lambda cfg, encoder: train_set(cfg, encoder.tokenizer),
        num_views=num_views(cfg.data),
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

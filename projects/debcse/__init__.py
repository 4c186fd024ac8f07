"""DebCSE: inverse-propensity-weighted sampling of pairs, after the abstract of Miao et al. 2023."""

from typing import TYPE_CHECKING

from projects.debcse.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.debcse.module import DebCSE

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DebCSE]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.sentences.experiment import sentence_experiment
    from projects.debcse.data import corpus_size, pair_requirements, twin_views
    from projects.debcse.evaluate import evaluate
    from projects.debcse.module import DebCSE
    from projects.debcse.stages import stages
    from projects.debcse.tasks import TASKS

    return sentence_experiment(
        cfg,
        DebCSE,
        lambda cfg, encoder: twin_views(cfg, encoder.tokenizer),
        evaluate=evaluate,
        stages=stages,
        tasks=TASKS,
        requirements=pair_requirements,
        num_samples=corpus_size,
        num_views=cfg.num_views,
    )


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

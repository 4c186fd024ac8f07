"""MultiCSR: sentence pairs from a language model, refined at three levels (Wang et al. 2024)."""

from typing import TYPE_CHECKING

from projects.multicsr.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.engine.experiment import Experiment
    from projects.multicsr.module import MultiCSR

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[MultiCSR]":
    """The experiment of a config; heavy imports happen here."""
    from dataclasses import replace
    from functools import partial

    from common.families.sentences.experiment import sentence_experiment
    from projects.multicsr import stages, tasks
    from projects.multicsr.evaluate import evaluate

    experiment = sentence_experiment(
        cfg,
        stages.planned_module,
        stages.training_set,
        evaluate=evaluate,
        stages=stages.stages,
        tasks={"generate": tasks.generate, "score": tasks.score, "filter": tasks.filter_triplets},
        requirements=stages.requirements,
        num_samples=stages.num_samples,
        num_views=3,
    )
    return replace(experiment, load_export=partial(stages.load_student, cfg))


def load(folder: "Path") -> "SentenceEncoder":
    """The sentence encoder of an exported folder."""
    from common.export.sentence_encoders import load_sentence_encoder

    return load_sentence_encoder(folder)

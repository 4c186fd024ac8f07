"""DSE: a Siamese student that reproduces a cross-encoder's pair scores (Barkan et al., 2020).

Field: Sentence embeddings.
"""

from typing import TYPE_CHECKING, Any

from projects.dse.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.cross_encoder import CrossEncoder
    from common.engine.experiment import Experiment
    from projects.dse.scorer import PairScorer

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Any]":
    """The experiment of a config, of the student or of its teacher; heavy imports happen here."""
    from projects.dse.experiment import student_experiment, teacher_experiment

    return teacher_experiment(cfg) if cfg.train == "teacher" else student_experiment(cfg)


def load(folder: "Path") -> "PairScorer | CrossEncoder":
    """Encoder and pair scorer of an exported student, or the teacher's cross-encoder."""
    from projects.dse.exported import load_exported

    return load_exported(folder)

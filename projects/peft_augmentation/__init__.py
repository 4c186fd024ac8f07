"""Data augmentation for parameter-efficient tuning with little data (Obadinma et al., 2023).

Field: Language understanding.
"""

from typing import TYPE_CHECKING

from projects.peft_augmentation.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.tuned.classifier import TextClassifier
    from common.engine.experiment import Experiment
    from projects.peft_augmentation.module import PeftAugmentation

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[PeftAugmentation]":
    """The experiment of a config; heavy imports happen here."""
    from projects.peft_augmentation.experiment import experiment

    return experiment(cfg)


def load(folder: "Path") -> "TextClassifier":
    """The classifier of an exported folder."""
    from common.export.tuned_classifier import load_classifier

    return load_classifier(folder)

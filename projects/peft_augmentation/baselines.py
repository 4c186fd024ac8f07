"""What the arms are read against: the most frequent class, words, letters, frozen vectors."""

from common.engine.workspace import Workspace
from projects.peft_augmentation.classification.baselines import (
    frozen_linear,
    majority,
    tfidf_chars,
    tfidf_words,
)
from projects.peft_augmentation.classification.module import first_classifier
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.experiment import evaluate
from projects.peft_augmentation.module import PeftAugmentation

__all__ = ["frozen_linear", "majority", "tfidf_chars", "tfidf_words", "untrained"]


def untrained(cfg: Config, workspace: Workspace) -> dict[str, float]:
    """The classifier before its first step."""
    return evaluate(cfg, PeftAugmentation(cfg, first_classifier(cfg)), workspace)

"""Vega v1: replaced tokens, contrast, and a bag of tricks for GLUE (Zhong et al., 2023).

Field: Language understanding.
"""

from typing import TYPE_CHECKING, Any

from projects.vega.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.text.sentence import SentenceEncoder
    from common.encoders.text.tuned.classifier import TextClassifier
    from common.engine.experiment import Experiment

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Any]":
    """The experiment of a config, pre-training or fine-tuning; heavy imports happen here."""
    from projects.vega.experiment import finetuning, pretraining

    return pretraining(cfg) if cfg.train == "pretrain" else finetuning(cfg)


def load(folder: "Path") -> "TextClassifier | SentenceEncoder":
    """The classifier or the sentence encoder of an exported folder."""
    from projects.vega.exported import load_exported

    return load_exported(folder)

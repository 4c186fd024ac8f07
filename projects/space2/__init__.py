"""SPACE-2: contrastive pre-training on semantic trees of dialogues (He et al., COLING 2022)."""

from typing import TYPE_CHECKING

from projects.space2.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from common.engine.module import ContrastiveModule
    from projects.space2.inference import DialogModel

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[ContrastiveModule]":
    """The experiment of a config; heavy imports happen here."""
    from projects.space2.experiment import experiment

    return experiment(cfg)


def load(folder: "Path") -> "DialogModel":
    """Encoder, views and task head of an exported folder, from texts to vectors and answers."""
    from projects.space2.inference import DialogModel

    return DialogModel.open(folder)

"""CWCL: continuously weighted contrastive loss (Srinivasa et al., NeurIPS 2023)."""

from typing import TYPE_CHECKING

from projects.cwcl.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.cwcl.exported import LockedModel
    from projects.cwcl.module import ImageTextCWCL
    from projects.cwcl.speech.exported import SpokenTextModel
    from projects.cwcl.spoken_module import SpeechTextCWCL

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[ImageTextCWCL] | Experiment[SpeechTextCWCL]":
    """The experiment of a config; heavy imports happen here."""
    if cfg.pair == "speech_text":
        from projects.cwcl.spoken import speech_text

        return speech_text(cfg)
    from projects.cwcl.pictures import image_text

    return image_text(cfg)


def load(folder: "Path") -> "LockedModel | SpokenTextModel":
    """Both towers of an exported folder: images and text, or speech and text."""
    from projects.cwcl.exported import load_locked
    from projects.cwcl.speech.exported import ABOUT, load_spoken_text

    return load_spoken_text(folder) if (folder / ABOUT).exists() else load_locked(folder)

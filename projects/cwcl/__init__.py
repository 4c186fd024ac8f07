"""CWCL: cross-modal transfer with continuously weighted contrastive loss (Srinivasa et al., NeurIPS 2023)."""

from typing import TYPE_CHECKING

from projects.cwcl.config import Config

if TYPE_CHECKING:
    from common.engine.experiment import Experiment
    from projects.cwcl.module import ImageTextCWCL
    from projects.cwcl.spoken_module import SpeechTextCWCL

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[ImageTextCWCL] | Experiment[SpeechTextCWCL]":
    """The experiment of a config; heavy imports happen here."""
    if cfg.pair == "speech_text":
        from projects.cwcl.spoken import speech_text

        return speech_text(cfg)
    from projects.cwcl.pictures import image_text

    return image_text(cfg)

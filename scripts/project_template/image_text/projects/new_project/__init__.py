"""NewProject: what the paper does in one line (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.new_project.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.image_text.open_clip_dual import OpenClipDualEncoder
    from common.engine.experiment import Experiment
    from common.families.image_text.module import Encoder
    from projects.new_project.module import NewProject

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[NewProject]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.image_text.data import image_text_data
    from common.families.image_text.experiment import image_text_experiment
    from projects.new_project.module import NewProject

    def make_module(encoder: "Encoder | None" = None) -> NewProject:
        return NewProject(cfg, encoder)

    return image_text_experiment(
        cfg, make_module, lambda tokenizer: image_text_data(cfg, tokenizer)
    )


def load(folder: "Path") -> "OpenClipDualEncoder":
    """Both towers of an exported folder; open_clip opens it as well."""
    from common.export.open_clip import load_open_clip

    return load_open_clip(folder)

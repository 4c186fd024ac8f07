"""NewProject: what the paper does in one line (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.new_project.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment
    from projects.new_project.module import NewProject

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[NewProject]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.data import num_images
    from common.families.images.experiment import (
        TrainedNetwork,
        features_and_embeddings,
        image_experiment,
        watched_stage,
    )
    from common.families.images.networks import build_network, network_options
    from projects.new_project.data import build_data, image_part, requirements
    from projects.new_project.evaluate import evaluate
    from projects.new_project.module import NewProject

    passes = [(2, (3, cfg.data.image_size, cfg.data.image_size))]
    return image_experiment(
        cfg,
        NewProject,
        watched_stage(NewProject, build_data, image_part),
        evaluate,
        TrainedNetwork(build_network, network_options(cfg), passes, features_and_embeddings),
        num_samples=lambda cfg: num_images(cfg.data),
        requirements=requirements,
    )


def load(folder: "Path") -> "ProjectedEncoder":
    """Encoder and projector of an exported folder, as `common.models.load` returns them."""
    from common.export.safetensors import load_safetensors
    from common.families.images.networks import build_network

    return load_safetensors(folder, build_network)

"""The arena of images: two views of every picture under a contestant's loss."""

from typing import TYPE_CHECKING

from arena.images.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from arena.images.module import Contest
    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Contest]":
    """The experiment of a config; heavy imports happen here."""
    from arena.images.data import build_data, image_part, requirements
    from arena.images.evaluate import evaluate
    from arena.images.module import Contest
    from common.engine.experiment import Stage
    from common.families.images.data import num_images
    from common.families.images.experiment import (
        TrainedNetwork,
        features_and_embeddings,
        image_experiment,
    )
    from common.families.images.networks import build_network, network_options

    def stages(cfg: Config) -> "Iterator[Stage]":
        module = Contest(cfg)
        module.labels = image_part(cfg, "train").labels
        yield Stage("train", module, build_data(cfg))

    passes = [(2, (3, cfg.data.image_size, cfg.data.image_size))]
    return image_experiment(
        cfg,
        Contest,
        stages,
        evaluate,
        TrainedNetwork(build_network, network_options(cfg), passes, features_and_embeddings),
        num_samples=lambda cfg: num_images(cfg.data),
        requirements=requirements,
    )


def load(folder: "Path") -> "ProjectedEncoder":
    """Encoder and projector of an exported folder."""
    from common.export.safetensors import load_safetensors
    from common.families.images.networks import build_network

    return load_safetensors(folder, build_network)

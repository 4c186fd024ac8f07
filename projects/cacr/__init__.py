"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023)."""

from typing import TYPE_CHECKING

from projects.cacr.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment
    from common.families.images.linear import LinearClassification, LinearNetwork
    from projects.cacr.module import CACR

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[CACR] | Experiment[LinearClassification]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.experiment import (
        TrainedNetwork,
        features_and_embeddings,
        image_experiment,
        watched_stage,
    )
    from common.families.images.linear import linear_experiment
    from common.families.images.networks import build_network, network_options
    from projects.cacr.data import build_data, image_part, num_samples, one_view, requirements
    from projects.cacr.evaluate import evaluate
    from projects.cacr.module import CACR

    options = network_options(cfg)
    if cfg.linear.train:
        return linear_experiment(
            cfg, build_network, options, image_part, one_view, requirements(cfg)
        )
    data = cfg.data
    passes = [(data.views, (3, data.image_size, data.image_size))]
    if data.local_views:
        passes.append((data.local_views, (3, data.local_size, data.local_size)))
    return image_experiment(
        cfg,
        CACR,
        watched_stage(CACR, build_data, image_part),
        evaluate,
        TrainedNetwork(build_network, options, passes, features_and_embeddings),
        num_samples=num_samples,
        requirements=requirements,
    )


def load(folder: "Path") -> "ProjectedEncoder | LinearNetwork":
    """Encoder of an exported folder, with its projection head or its linear classifier."""
    from common.families.images.linear import load_network

    return load_network(folder)

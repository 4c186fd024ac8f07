"""DCL: decoupled contrastive learning on SimCLR, MoCo and NNCLR (Yeh et al., ECCV 2022)."""

from typing import TYPE_CHECKING

from projects.dcl.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment
    from common.families.images.linear import LinearClassification, LinearNetwork
    from projects.dcl.module import DCL

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DCL] | Experiment[LinearClassification]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.experiment import (
        TrainedNetwork,
        features_and_embeddings,
        image_experiment,
        watched_stage,
    )
    from common.families.images.linear import linear_experiment
    from common.families.images.networks import build_network, network_options
    from projects.dcl.data import build_data, image_part, num_samples, requirements, train_transform
    from projects.dcl.evaluate import evaluate
    from projects.dcl.module import DCL
    from projects.dcl.sensitivity import sensitivity

    options = network_options(cfg)
    if cfg.linear.train:
        return linear_experiment(
            cfg, build_network, options, image_part, train_transform, requirements(cfg)
        )
    views = 1 if cfg.method.host == "moco" else 2  # MoCo's second view passes the copy alone
    passes = [(views, (3, cfg.data.image_size, cfg.data.image_size))]
    return image_experiment(
        cfg,
        DCL,
        watched_stage(DCL, build_data, image_part),
        evaluate,
        TrainedNetwork(build_network, options, passes, features_and_embeddings),
        num_samples=num_samples,
        requirements=requirements,
        tasks={"sensitivity": lambda workspace: sensitivity(cfg, workspace)},
    )


def load(folder: "Path") -> "ProjectedEncoder | LinearNetwork":
    """Encoder of an exported folder, with its projection head or its linear classifier."""
    from common.families.images.linear import load_network

    return load_network(folder)

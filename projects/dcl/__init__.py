"""DCL: decoupled contrastive learning on SimCLR, MoCo and NNCLR (Yeh et al., ECCV 2022)."""

from typing import TYPE_CHECKING

from projects.dcl.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment
    from common.families.images.linear import LinearNetwork
    from projects.dcl.module import DCL

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[DCL]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.experiment import image_experiment
    from common.families.images.networks import build_network, network_options
    from projects.dcl.data import build_data, image_part, num_samples, requirements, train_transform
    from projects.dcl.evaluate import evaluate
    from projects.dcl.module import DCL
    from projects.dcl.sensitivity import sensitivity

    views = 1 if cfg.method.host == "moco" else 2  # MoCo's second view passes the copy alone
    return image_experiment(
        cfg,
        DCL,
        build_data,
        evaluate,
        build_network,
        network_options,
        num_samples=num_samples,
        requirements=requirements,
        passes=[(views, (3, cfg.data.image_size, cfg.data.image_size))],
        labelled=image_part,
        views=train_transform,
        tasks={"sensitivity": lambda workspace: sensitivity(cfg, workspace)},
    )


def load(folder: "Path") -> "ProjectedEncoder | LinearNetwork":
    """Encoder of an exported folder, with its projection head or the classifier of a linear evaluation."""
    from common.families.images.linear import load_network

    return load_network(folder)

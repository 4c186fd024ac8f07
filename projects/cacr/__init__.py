"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023)."""

from typing import TYPE_CHECKING

from projects.cacr.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment
    from common.families.images.linear import LinearNetwork
    from projects.cacr.module import CACR

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[CACR]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.experiment import image_experiment
    from common.families.images.networks import build_network, network_options
    from projects.cacr.data import build_data, image_part, num_samples, one_view, requirements
    from projects.cacr.evaluate import evaluate
    from projects.cacr.module import CACR

    data = cfg.data
    passes = [(data.views, (3, data.image_size, data.image_size))]
    if data.local_views:
        passes.append((data.local_views, (3, data.local_size, data.local_size)))
    return image_experiment(
        cfg,
        CACR,
        build_data,
        evaluate,
        build_network,
        network_options,
        num_samples=num_samples,
        requirements=requirements,
        passes=passes,
        labelled=image_part,
        views=one_view,
    )


def load(folder: "Path") -> "ProjectedEncoder | LinearNetwork":
    """Encoder of an exported folder, with its projection head or the classifier of a linear evaluation."""
    from common.families.images.linear import load_network

    return load_network(folder)

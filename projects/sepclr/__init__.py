"""SepCLR: common and salient patterns of two sets (Louiset et al., ICLR 2024)."""

from typing import TYPE_CHECKING

from projects.sepclr.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from common.engine.experiment import Experiment
    from projects.sepclr.module import SepCLR
    from projects.sepclr.networks import Network

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[SepCLR]":
    """The experiment of a config; heavy imports happen here."""
    from common.families.images.experiment import TrainedNetwork, image_experiment, one_stage
    from projects.sepclr.data import build_data, image_shape, num_samples, requirements
    from projects.sepclr.evaluate import evaluate
    from projects.sepclr.module import SepCLR
    from projects.sepclr.networks import build_network, network_options, representations

    passes = [(1, image_shape(cfg))] * 2  # one view after the other
    return image_experiment(
        cfg,
        SepCLR,
        one_stage(SepCLR, build_data),
        evaluate,
        TrainedNetwork(build_network, network_options(cfg), passes, representations),
        num_samples=num_samples,
        requirements=requirements,
    )


def load(folder: "Path") -> "Network":
    """The network of an exported folder."""
    from common.export.safetensors import load_safetensors
    from projects.sepclr.networks import build_network

    return load_safetensors(folder, build_network)

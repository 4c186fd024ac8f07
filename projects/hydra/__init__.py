"""Hydra (SimLAP): learning from arbitrary class pairs in gated subspaces (Wu et al. 2024)."""

from typing import TYPE_CHECKING

from projects.hydra.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from common.engine.experiment import Experiment, Stage
    from projects.hydra.module import Hydra
    from projects.hydra.networks import HydraNet

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[Hydra]":
    """The experiment of a config; heavy imports happen here."""
    import dataclasses

    from common.data.lookup import data_root
    from common.engine.experiment import Stage
    from common.evaluation.image_text.image_sets import require_image_sets
    from common.families.images.experiment import TrainedNetwork, image_experiment
    from projects.hydra.data import build_data, num_samples, requirements
    from projects.hydra.evaluate import evaluate
    from projects.hydra.module import Hydra
    from projects.hydra.networks import HydraNet, gated_outputs, network_options

    def stages(cfg: Config) -> "Iterator[Stage]":
        require_image_sets(cfg.eval.transfer, data_root(cfg.eval.root or cfg.data.root))
        if not cfg.method.frozen_simclr:
            yield Stage("train", Hydra(cfg), build_data(cfg))
            return
        # The motivating observation: only the gate is trained, on frozen SimCLR features.
        first = dataclasses.replace(
            cfg,
            method=dataclasses.replace(cfg.method, objective="simclr", frozen_simclr=False),
            data=dataclasses.replace(cfg.data, views=2, augmentation="simclr", repeats=1),
        )
        simclr = Hydra(first)
        yield Stage("simclr", simclr, build_data(first))
        module = Hydra(cfg)
        module.network.take_encoder(simclr.network)
        yield Stage("gate", module, build_data(cfg))

    passes = [(1, (3, cfg.data.image_size, cfg.data.image_size))] * cfg.data.views
    return image_experiment(
        cfg,
        Hydra,
        stages,
        evaluate,
        TrainedNetwork(HydraNet, network_options(cfg), passes, gated_outputs),
        num_samples=num_samples,
        requirements=requirements,
    )


def load(folder: "Path") -> "HydraNet":
    """The network of an exported folder."""
    from common.export.safetensors import load_safetensors
    from projects.hydra.networks import HydraNet

    return load_safetensors(folder, HydraNet)

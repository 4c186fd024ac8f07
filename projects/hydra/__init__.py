"""Hydra (SimLAP): learning from arbitrary class pairs in gated subspaces (Wu et al. 2024)."""

from typing import TYPE_CHECKING

from projects.hydra.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from projects.hydra.module import Hydra

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[Hydra]":
    """The experiment of a config; heavy imports happen here."""
    import dataclasses

    import torch

    from common.data.lookup import data_root
    from common.engine.experiment import Experiment, Plan, Stage
    from common.evaluation.image_text.image_sets import require_image_sets
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.hydra.data import build_data, num_samples, requirements
    from projects.hydra.evaluate import evaluate
    from projects.hydra.module import Hydra
    from projects.hydra.networks import HydraNet

    def stages() -> "Iterator[Stage]":
        require_image_sets(cfg.eval.transfer, data_root(cfg.eval.root or cfg.data.root))
        if not cfg.method.frozen_simclr:
            yield Stage("train", Hydra(cfg), build_data(cfg))
            return
        # The motivating observation: only the gate is trained, on frozen SimCLR features.
        first = dataclasses.replace(
            cfg,
            method=dataclasses.replace(cfg.method, objective="simclr", frozen_simclr=False),
            data=dataclasses.replace(cfg.data, views=2, augmentation="simclr"),
        )
        simclr = Hydra(first)
        yield Stage("simclr", simclr, build_data(first))
        module = Hydra(cfg)
        module.net.take_encoder(simclr.net)
        yield Stage("gate", module, build_data(cfg))

    def export(module: Hydra, folder: "Path") -> None:
        net = module.net
        save_safetensors(net, folder, net.options)

    def load_export(folder: "Path") -> Hydra:
        return Hydra(cfg, load_safetensors(folder, HydraNet))

    def embed(module: Hydra) -> "dict[str, Tensor]":
        net, size = module.net, cfg.data.image_size
        images = torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)
        features, projections = net(images.to(next(net.parameters()).device))
        one = torch.tensor([0, 1], device=features.device)
        gates = net.gate(one, one.flip(0))
        return {
            "features": features.float().cpu(),
            "projections": projections.float().cpu(),
            "gates": gates.float().cpu(),
        }

    def forward(module: Hydra, batch_size: int) -> "Tensor":
        size = cfg.data.image_size
        views = [module.net(torch.zeros(batch_size, 3, size, size)) for _ in range(cfg.data.views)]
        return torch.stack([projections.sum() for _, projections in views]).sum()

    def plan() -> "Plan[Hydra]":
        return Plan(lambda: Hydra(cfg), num_samples(cfg.data), forward, tuple(requirements(cfg)))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )

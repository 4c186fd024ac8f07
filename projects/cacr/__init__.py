"""CACR: contrastive attraction and contrastive repulsion (Zheng et al., TMLR 2023)."""

from typing import TYPE_CHECKING

from projects.cacr.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from projects.cacr.module import CACR

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[CACR]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.cacr.data import build_data, image_part, num_samples, requirements
    from projects.cacr.evaluate import evaluate
    from projects.cacr.module import CACR, network_options
    from projects.cacr.networks import build_network

    def stages() -> "Iterator[Stage]":
        module = CACR(cfg)
        if cfg.eval.online_probe:
            train = image_part(cfg, "train")
            module.probe_online(train.labels, len(train.class_names))
        yield Stage("train", module, build_data(cfg))

    def export(module: CACR, folder: "Path") -> None:
        save_safetensors(module.network, folder, network_options(cfg))

    def load_export(folder: "Path") -> CACR:
        return CACR(cfg, load_safetensors(folder, build_network))

    def probe_images() -> "Tensor":
        size = cfg.data.image_size
        return torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)

    def embed(module: CACR) -> "dict[str, Tensor]":
        network = module.network
        features = network.encoder(probe_images().to(next(network.parameters()).device))
        embeddings = network.projector(features)
        return {"features": features.float().cpu(), "embeddings": embeddings.float().cpu()}

    def forward(module: CACR, batch_size: int) -> "Tensor":
        data, network = cfg.data, module.network
        output: Tensor = network(
            torch.zeros(data.views * batch_size, 3, data.image_size, data.image_size)
        )
        if not data.local_views:
            return output.sum()
        shape = (data.local_views * batch_size, 3, data.local_size, data.local_size)
        local: Tensor = network(torch.zeros(shape))
        return output.sum() + local.sum()

    def plan() -> "Plan[CACR]":
        return Plan(lambda: CACR(cfg), num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )

"""DCL: decoupled contrastive learning on SimCLR, MoCo and NNCLR (Yeh et al., ECCV 2022)."""

from typing import TYPE_CHECKING

from projects.dcl.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from common.engine.workspace import Workspace
    from projects.dcl.module import DCL

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[DCL]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.dcl.data import build_data, image_part, num_samples, requirements
    from projects.dcl.evaluate import evaluate
    from projects.dcl.module import DCL, build_network, network_options
    from projects.dcl.sensitivity import run_sensitivity

    def stages() -> "Iterator[Stage]":
        module = DCL(cfg)
        if cfg.eval.online_probe:
            train = image_part(cfg, "train")
            module.probe_online(train.labels, len(train.class_names))
        yield Stage("train", module, build_data(cfg))

    def export(module: DCL, folder: "Path") -> None:
        save_safetensors(module.network, folder, network_options(cfg))

    def load_export(folder: "Path") -> DCL:
        return DCL(cfg, load_safetensors(folder, build_network))

    def probe_images() -> "Tensor":
        size = cfg.data.image_size
        return torch.linspace(-2, 2, 2 * 3 * size * size).sin().reshape(2, 3, size, size)

    def embed(module: DCL) -> "dict[str, Tensor]":
        network = module.network
        features = network.encoder(probe_images().to(next(network.parameters()).device))
        embeddings = network.projector(features)
        return {"features": features.float().cpu(), "embeddings": embeddings.float().cpu()}

    def forward(module: DCL, batch_size: int) -> "Tensor":
        size, views = cfg.data.image_size, 1 if cfg.method.host == "moco" else 2
        output: Tensor = module.network(torch.zeros(views * batch_size, 3, size, size))
        return output.sum()

    def sensitivity(workspace: "Workspace") -> None:
        run_sensitivity(cfg, workspace)

    def plan() -> "Plan[DCL]":
        return Plan(lambda: DCL(cfg), num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
        {"sensitivity": sensitivity},
    )

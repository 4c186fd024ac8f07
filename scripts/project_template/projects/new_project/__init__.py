"""NewProject: what the paper does in one line (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.new_project.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.encoders.heads import ProjectedEncoder
    from common.engine.experiment import Experiment, Plan, Stage
    from projects.new_project.module import NewProject

__all__ = ["Config", "build", "load"]


def build(cfg: Config) -> "Experiment[NewProject]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.new_project.data import build_data
    from projects.new_project.evaluate import evaluate
    from projects.new_project.module import NewProject
    from projects.new_project.network import build_network

    def stages() -> "Iterator[Stage]":
        yield Stage("train", NewProject(cfg), build_data(cfg))

    def export(module: NewProject, folder: "Path") -> None:
        options = {"widths": cfg.model.widths, "out_dim": cfg.model.out_dim}
        save_safetensors(module.network, folder, options)

    def load_export(folder: "Path") -> NewProject:
        return NewProject(cfg, load_safetensors(folder, build_network))

    def embed(module: NewProject) -> "dict[str, Tensor]":
        size = cfg.data.image_size
        images = torch.linspace(-2, 2, 2 * 3 * size * size).sin()
        device = next(module.parameters()).device
        features = module.network.encoder(images.view(2, 3, size, size).to(device))
        return {"features": features.float().cpu()}

    def forward(module: NewProject, batch_size: int) -> "Tensor":
        size = cfg.data.image_size
        output: Tensor = module.network(torch.zeros(2 * batch_size, 3, size, size))
        return output.sum()

    def plan() -> "Plan[NewProject]":
        return Plan(lambda: NewProject(cfg), cfg.data.num_train, forward)

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )


def load(folder: "Path") -> "ProjectedEncoder":
    """The network of an exported folder, as `common.models.load` returns it."""
    from common.export.safetensors import load_safetensors
    from projects.new_project.network import build_network

    return load_safetensors(folder, build_network)

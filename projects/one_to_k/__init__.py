"""OneToK: what the paper does in one line (authors, venue, year)."""

from typing import TYPE_CHECKING

from projects.one_to_k.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from projects.one_to_k.module import OneToK

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[OneToK]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.one_to_k.data import build_data
    from projects.one_to_k.evaluate import evaluate
    from projects.one_to_k.module import OneToK
    from projects.one_to_k.network import build_network

    def stages() -> "Iterator[Stage]":
        yield Stage("train", OneToK(cfg), build_data(cfg))

    def export(module: OneToK, folder: "Path") -> None:
        options = {"widths": cfg.model.widths, "out_dim": cfg.model.out_dim}
        save_safetensors(module.network, folder, options)

    def load_export(folder: "Path") -> OneToK:
        return OneToK(cfg, load_safetensors(folder, build_network))

    def embed(module: OneToK) -> "dict[str, Tensor]":
        size = cfg.data.image_size
        images = torch.linspace(-2, 2, 2 * 3 * size * size).sin()
        device = next(module.parameters()).device
        features = module.network.encoder(images.view(2, 3, size, size).to(device))
        return {"features": features.float().cpu()}

    def forward(module: OneToK, batch_size: int) -> "Tensor":
        size = cfg.data.image_size
        output: Tensor = module.network(torch.zeros(2 * batch_size, 3, size, size))
        return output.sum()

    def plan() -> "Plan[OneToK]":
        return Plan(lambda: OneToK(cfg), cfg.data.num_train, forward)

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )

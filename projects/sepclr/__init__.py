"""SepCLR: common and salient patterns of two sets by contrastive learning (Louiset et al., ICLR 2024)."""

from typing import TYPE_CHECKING

from projects.sepclr.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from projects.sepclr.module import SepCLR

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[SepCLR]":
    """The experiment of a config; heavy imports happen here."""
    import dataclasses

    import torch

    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import load_safetensors, save_safetensors
    from projects.sepclr.data import build_data, num_samples, probe_input, requirements
    from projects.sepclr.evaluate import evaluate
    from projects.sepclr.module import SepCLR, network_options
    from projects.sepclr.networks import build_network

    def stages() -> "Iterator[Stage]":
        yield Stage("train", SepCLR(cfg), build_data(cfg))

    def export(module: SepCLR, folder: "Path") -> None:
        save_safetensors(module.network, folder, network_options(cfg))

    def load_export(folder: "Path") -> SepCLR:
        return SepCLR(cfg, load_safetensors(folder, build_network))

    def embed(module: SepCLR) -> "dict[str, Tensor]":
        device = next(module.parameters()).device
        common, salient = module.encode(probe_input(cfg, 2).to(device))
        return {"common": common.float().cpu(), "salient": salient.float().cpu()}

    def forward(module: SepCLR, batch_size: int) -> "Tensor":
        images = torch.zeros(batch_size, *probe_input(cfg, 1).shape[1:])
        views = [module.network(images) for _ in range(2)]
        return torch.stack([sum(x.sum() for x in codes) for codes in views]).sum()

    def plan() -> "Plan[SepCLR]":
        bare = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, pretrained="random"))
        return Plan(lambda: SepCLR(bare), num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )

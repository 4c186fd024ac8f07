"""SepCLR: common and salient patterns of two sets by contrastive learning (Louiset et al., ICLR 2024)."""

from typing import TYPE_CHECKING

from projects.sepclr.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from common.engine.experiment import Experiment, Plan, Stage
    from common.engine.module import ContrastiveModule

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment":
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

    def sepclr(module: "nn.Module") -> SepCLR:
        assert isinstance(module, SepCLR)
        return module

    def export(module: "ContrastiveModule", folder: "Path") -> None:
        save_safetensors(sepclr(module).network, folder, network_options(cfg))

    def load_export(folder: "Path") -> "ContrastiveModule":
        return SepCLR(cfg, load_safetensors(folder, build_network))

    def embed(module: "ContrastiveModule") -> "dict[str, Tensor]":
        device = next(module.parameters()).device
        common, salient = sepclr(module).encode(probe_input(cfg, 2).to(device))
        return {"common": common.float().cpu(), "salient": salient.float().cpu()}

    def forward(module: "nn.Module", batch_size: int) -> "Tensor":
        images = torch.zeros(batch_size, *probe_input(cfg, 1).shape[1:])
        views = [sepclr(module).network(images) for _ in range(2)]
        return torch.stack([sum(x.sum() for x in codes) for codes in views]).sum()

    def plan() -> "Plan":
        bare = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, pretrained="random"))
        return Plan(lambda: SepCLR(bare), num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, sepclr(module), workspace),
        export,
        load_export,
        embed,
        plan,
    )

"""TREND: LiDAR pre-training by forecasting future scans with a neural field (Chen et al., NeurIPS 2025)."""

from typing import TYPE_CHECKING

from projects.trend.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from common.engine.experiment import Experiment, Plan, Stage
    from projects.trend.finetune import Finetune
    from projects.trend.module import Trend

__all__ = ["Config", "build"]


def build(cfg: Config) -> "Experiment[Trend | Finetune]":
    """The experiment of a config; heavy imports happen here."""
    import torch

    from common.encoders.state_dict import load_state_dict_file
    from common.engine.experiment import Experiment, Plan, Stage
    from common.export.safetensors import save_safetensors
    from projects.trend.data import build_data, open_sets
    from projects.trend.evaluate import evaluate
    from projects.trend.export import export_backbone, load_backbone
    from projects.trend.finetune import Finetune, build_finetune_data
    from projects.trend.module import Trend
    from projects.trend.networks import (
        Rays,
        TrendNetwork,
        encoder_options,
        network_options,
    )
    from projects.trend.sources import num_samples, requirements

    def stages() -> "Iterator[Stage]":
        network = TrendNetwork(**network_options(cfg))
        given = cfg.finetune.encoder_weights
        if given is not None and given != "random":
            load_backbone(given, network)
        if given is None:
            sets = open_sets(cfg, "train")
            for number, horizon in enumerate(cfg.method.horizons):
                lengths = cfg.method.epochs if cfg.method.steps is None else cfg.method.steps
                unit = "max_epochs" if cfg.method.steps is None else "max_steps"
                module = Trend(cfg, network, horizon)
                data = build_data(cfg, sets, horizon)
                yield Stage(f"pretrain_{horizon}", module, data, {unit: lengths[number]})
        if cfg.finetunes:
            tune = cfg.finetune
            length = {"max_epochs": tune.epochs} if tune.epochs else {"max_steps": tune.steps}
            yield Stage("finetune", Finetune(cfg, network), build_finetune_data(cfg), length)

    def last() -> Trend | Finetune:
        return Finetune(cfg) if cfg.finetunes else Trend(cfg)

    def export(module: Trend | Finetune, folder: "Path") -> None:
        export_backbone(module.network.encoder, encoder_options(cfg), folder / "backbone")
        save_safetensors(module.network, folder / "network", network_options(cfg))
        save_safetensors(module, folder / "all")

    def load_export(folder: "Path") -> Trend | Finetune:
        module = last()
        load_state_dict_file(folder / "all" / "model.safetensors", module)
        return module

    def embed(module: Trend | Finetune) -> "dict[str, Tensor]":
        network = module.network
        device = next(network.parameters()).device
        grid = network.encoder.grid
        steps = torch.linspace(-9, 9, 200 * (3 + cfg.data.num_features), device=device)
        points = steps.sin().view(200, -1)
        points[:, :3] *= 0.9 * min(abs(c) for c in (*grid.low, *grid.high))
        volume = network.encode(points, torch.zeros(200, dtype=torch.long, device=device), 1)
        directions = torch.nn.functional.normalize(points[:20, :3], dim=1)
        ranges, intensity = network.forecast(
            points, points.new_tensor([[1.0, 0.0, 0.1]]), points.new_zeros(3), directions, 0.5
        )
        found = {"volume": volume, "ranges": ranges, "intensity": intensity}
        return {name: value.float().cpu() for name, value in found.items()}

    def forward(module: Trend | Finetune, batch_size: int) -> "Tensor":
        """Recurrent embedding, field and rendering; the sparse encoder depends on the points."""
        network = module.network.requires_grad_(True)  # frozen in fine-tuning
        shape = (batch_size, network.encoder.channels, *network.encoder.volume_shape)
        volume = torch.zeros(shape).requires_grad_()
        after = network.recurrent.step(volume, torch.zeros(batch_size, 3))
        directions = torch.ones(2 * batch_size, cfg.data.rays, 3)
        frames = 2 * batch_size
        rays = Rays(torch.zeros(frames, 3), directions, torch.zeros(frames), directions[..., 0])
        scan = network.render(torch.cat([volume, after]), rays)
        return torch.stack([scan.ranges.sum(), scan.intensity.sum(), scan.surface.sum()]).sum()

    def plan() -> "Plan[Trend | Finetune]":
        return Plan(last, num_samples(cfg), forward, requirements(cfg))

    return Experiment(
        stages,
        lambda module, workspace: evaluate(cfg, module, workspace),
        export,
        load_export,
        embed,
        plan,
    )

"""The curriculum of pre-training, then fine-tuning; what `make check` builds of them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.engine.experiment import Plan, Stage
from projects.trend.config import Config
from projects.trend.data import build_data, open_sets
from projects.trend.export import load_backbone
from projects.trend.finetune import (
    Finetune,
    build_finetune_data,
    labelled_source,
    last_module,
    num_labelled,
)
from projects.trend.module import Trend
from projects.trend.networks import Rays, TrendNetwork, network_options
from projects.trend.probes import semantic_source
from projects.trend.sources import check_part, num_samples, requirements

# CPU-seconds of a loader for two scans of 65,000 points, measured by benchmarks/bench_loaders.py
LOADER_SECONDS = 27e-3


def stages(cfg: Config) -> Iterator[Stage]:
    """One stage a horizon, all on one network; then the detector, if the config trains one.

    Raises:
        UserError: what a later stage or the evaluation needs is missing; said before pre-training.
    """
    tuning = build_finetune_data(cfg) if cfg.finetunes else None
    check_parts(cfg)
    network = TrendNetwork(**network_options(cfg))
    weights = cfg.finetune.encoder_weights
    if weights is not None and weights != "random":
        load_backbone(weights, network)
    if weights is None:
        sets = open_sets(cfg, "train")
        for number, horizon in enumerate(cfg.method.horizons):
            lengths = cfg.method.epochs if cfg.method.steps is None else cfg.method.steps
            unit = "max_epochs" if cfg.method.steps is None else "max_steps"
            module = Trend(cfg, network, horizon)
            data = build_data(cfg, sets, horizon)
            yield Stage(f"pretrain_{horizon}", module, data, {unit: lengths[number]})
    if tuning is not None:
        tune = cfg.finetune
        length = {"max_epochs": tune.epochs} if tune.epochs else {"max_steps": tune.steps}
        yield Stage("finetune", Finetune(cfg, network), tuning, length)


def check_parts(cfg: Config) -> None:
    """Refuse what the evaluation after all stages could not do.

    Raises:
        UserError: a set without a development part, no set with labelled points for the probe, or
            Waymo's scans with a height of the sensor.
    """
    labelled = [labelled_source(cfg)] if cfg.finetunes else []
    for name in dict.fromkeys([*cfg.data.sources, *labelled]):
        check_part(name, cfg.eval.split)
    if cfg.eval.segmentation_frames:
        semantic_source(cfg)
    pretrains = cfg.finetune.encoder_weights is None
    if pretrains and "waymo" in cfg.data.sources and cfg.data.sensor_height != 0:
        raise UserError(
            "Waymo's points are in the vehicle's frame, whose z = 0 is the road: pre-train with "
            "data.sensor_height=0, and without sets whose points are in the sensor's frame"
        )


def plan(cfg: Config) -> Plan[Trend | Finetune]:
    """What `make check` reports on: pre-training, or fine-tuning where there is nothing else."""
    tunes_alone = cfg.finetune.encoder_weights is not None

    def forward(module: Trend | Finetune, batch_size: int) -> Tensor:
        """All behind the encoder: a sparse one depends on the points."""
        network = module.network.requires_grad_(True)  # frozen in fine-tuning
        shape = (batch_size, network.encoder.channels, *network.encoder.volume_shape)
        volume = torch.zeros(shape).requires_grad_()
        if tunes_alone:
            assert isinstance(module, Finetune)
            detectors: list[Any] = list(module.detectors.values())
            outputs = [d.head(d.backbone(d.neck(volume))) for d in detectors]
            return torch.stack([part.float().sum() for parts in outputs for part in parts]).sum()
        after = network.recurrent.step(volume, torch.zeros(batch_size, 3))
        directions = torch.ones(2 * batch_size, cfg.data.rays, 3)
        frames = 2 * batch_size
        rays = Rays(torch.zeros(frames, 3), directions, torch.zeros(frames), directions[..., 0])
        scan = network.render(torch.cat([volume, after]), rays)
        return torch.stack([scan.ranges.sum(), scan.intensity.sum(), scan.surface.sum()]).sum()

    count = num_labelled(cfg) if tunes_alone else num_samples(cfg)
    seconds = None if tunes_alone else LOADER_SECONDS
    needs = requirements(cfg)
    return Plan(lambda: last_module(cfg), count, forward, needs, loader_seconds=seconds)

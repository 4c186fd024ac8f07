"""TREND's evaluation: forecasts against copies and an untrained net, detection, figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from common.encoders.modes import evaluated, untrained
from common.engine.workspace import Workspace
from common.evaluation.figures import embedding_map
from common.evaluation.lidar.scans import detection_figure, scan_figure
from projects.trend.config import Config
from projects.trend.finetune import Finetune
from projects.trend.forecasts import (
    Errors,
    Held,
    chamfer_of,
    copy_errors,
    errors_of,
    held_out,
    moving_items,
    moving_points,
    summary,
)
from projects.trend.module import Trend
from projects.trend.networks import TrendNetwork, network_options
from projects.trend.probes import (
    detection_metrics,
    point_features,
    segmentation_probe,
    test_frames,
)

PREFIX = {"simulated": "", "kitti_clip": "kitti_"}  # of the metrics of a set
NUM_SHOWN = 2  # sequences in the figures


def evaluate(cfg: Config, module: Trend | Finetune, workspace: Workspace) -> dict[str, float]:
    """Forecast errors of every set, then detection and segmentation from few labels."""
    metrics: dict[str, float] = {}
    with evaluated(module, cfg.trainer.accelerator):
        network = module.network
        plain = None
        if cfg.eval.untrained:
            plain = untrained(lambda: TrendNetwork(**network_options(cfg)), cfg.seed, network)
        for source in dict.fromkeys(cfg.data.sources):
            clip = source == "kitti_clip"
            held = held_out(
                cfg, source, cfg.eval.clip_rays if clip else cfg.eval.rays,
                cfg.eval.clip_step if clip else 1,
            )  # fmt: skip
            prefix = PREFIX.get(source, f"{source}_")
            found = forecast_metrics(cfg, network, plain, held, workspace, prefix)
            metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        if isinstance(module, Finetune):
            metrics |= detection(cfg, module, workspace)
        if cfg.eval.segmentation_frames:
            encoders = {"segmentation": network.encoder}
            if plain is not None:
                encoders["untrained_segmentation"] = plain.encoder
            for name, encoder in encoders.items():
                scores = segmentation_probe(cfg, encoder)
                metrics |= {f"{name}_{k}": v for k, v in scores.items()}
    return metrics


def forecast_metrics(
    cfg: Config,
    network: TrendNetwork,
    plain: TrendNetwork | None,
    held: Sequence[Held],
    workspace: Workspace,
    prefix: str,
) -> dict[str, float]:
    """Errors of the network and its references on one set."""
    horizon = cfg.eval.horizon
    errors = errors_of(cfg, network, held)
    metrics = summary(held, errors.ranges, horizon)
    metrics["current_intensity_l1"] = float(
        np.mean([np.abs(e[0]).mean() for e in errors.intensity])
    )
    metrics["opacity"] = errors.opacity
    for k in range(1, horizon + 1):
        metrics[f"chamfer_t{k}"] = chamfer_of(held, errors.ranges, k)
    references = {"copy": copy_errors(held)}
    if plain is not None:
        references["untrained"] = errors_of(cfg, plain, held).ranges
    for name, values in references.items():
        found = summary(held, values, horizon)
        metrics |= {f"{name}_{key}": value for key, value in found.items()}
    if cfg.method.horizons[-1] > 0:  # what the actions are worth
        for kind in ("zero", "shuffled"):
            other = errors_of(cfg, network, held, kind).ranges
            change = summary(held, other, horizon)["forecast_l1"] - metrics["forecast_l1"]
            metrics[f"{kind}_actions_change"] = change
    workspace.items(f"{prefix}forecast_moving_l1", moving_items(held, errors.ranges))
    workspace.items(
        f"{prefix}forecast_l1", [float(np.abs(np.concatenate(e[1:])).mean()) for e in errors.ranges]
    )
    if cfg.eval.figures:
        show(cfg, network, held, errors, metrics, workspace, prefix)
    return metrics


def detection(cfg: Config, module: Finetune, workspace: Workspace) -> dict[str, float]:
    """Detection metrics of the pre-trained and of the scratch detector."""
    frames = test_frames(cfg)
    metrics: dict[str, float] = {}
    for name, detector in module.detectors.items():
        found, boxes = detection_metrics(cfg, detector, frames)  # type: ignore[arg-type]
        prefix = "" if name == "pretrained" else f"{name}_"
        metrics |= {f"{prefix}{key}": value for key, value in found.items()}
        if cfg.eval.figures:
            limit = float(cfg.data.high[0])
            picture = detection_figure(
                frames[0]["points"], boxes[0].boxes, frames[0]["boxes"], limit,
                f"{name}: found (red), true (green)",
            )  # fmt: skip
            workspace.figure(f"boxes_{name}", picture)
    if "scratch_map_2.0m" in metrics:
        metrics["map_2.0m_gain"] = metrics["map_2.0m"] - metrics["scratch_map_2.0m"]
    return metrics


# -- pictures ------------------------------------------------------------------------------------


def show(
    cfg: Config,
    network: TrendNetwork,
    held: Sequence[Held],
    errors: Errors,
    metrics: dict[str, float],
    workspace: Workspace,
    prefix: str,
) -> None:
    """Rendered against true scans, error by horizon, and a map of moving and static points."""
    limit = float(cfg.data.high[0])
    for number in range(min(NUM_SHOWN, len(held))):
        rows = []
        for target, error in zip(held[number].targets, errors.ranges[number], strict=True):
            rays = target.rays
            both = np.stack([rays["ranges"], rays["ranges"] + error])
            title = f"t+{target.time:.1f} s" if target.step else "now"
            rows.append((title, rays["origin"], rays["directions"], both))
        workspace.figure(f"{prefix}scans_{number}", scan_figure(rows, limit))
    workspace.figure(f"{prefix}horizon", horizon_figure(cfg, metrics))
    points, labels = zip(*(_point_map(network, one) for one in held[:8]), strict=True)
    mask = torch.cat(labels)
    if mask.any() and not mask.all():
        workspace.figure(
            f"{prefix}moving_points",
            embedding_map(torch.cat(points), mask.long(), ["static", "moving"], "point features"),
        )


def _point_map(network: TrendNetwork, held: Held) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of the current returns, and which of them move."""
    device = next(network.parameters()).device
    xyz, moving = moving_points(held)
    points = torch.from_numpy(held.points).float().to(device)
    features = point_features(network.encoder, points)
    nearest = torch.cdist(torch.from_numpy(xyz).to(points), points[:, :3]).argmin(1)
    return features[nearest].float().cpu(), torch.from_numpy(moving)


def horizon_figure(cfg: Config, metrics: dict[str, float]) -> Any:
    """Range error by frames ahead: the network, the copied scan, the untrained network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = range(cfg.eval.horizon + 1)
    for name, prefix in (("forecast", ""), ("copied scan", "copy_"), ("untrained", "untrained_")):
        keys = [f"{prefix}current_l1", *(f"{prefix}forecast_l1_t{k}" for k in steps if k)]
        if all(key in metrics for key in keys):
            axes.plot(steps, [metrics[key] for key in keys], marker="o", label=name)
    axes.set(xlabel="frames ahead", ylabel="range L1 (m)", xticks=list(steps))
    axes.legend(fontsize=8)
    return figure

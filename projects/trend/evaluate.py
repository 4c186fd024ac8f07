"""TREND's evaluation: forecasts against copies and an untrained net, detection, figures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from common.encoders.modes import evaluated, untrained
from common.engine.callbacks import step_seed
from common.engine.workspace import Workspace
from common.evaluation.figures import embedding_map
from projects.trend.config import Config
from projects.trend.evaluation.forecast_errors import (
    detection_figure,
    scan_figure,
    scan_overlay,
)
from projects.trend.finetune import Finetune
from projects.trend.forecasts import (
    Errors,
    Floats,
    Held,
    chamfer_of,
    copy_errors,
    errors_of,
    held_out,
    moving_points,
    summary,
    window_errors,
)
from projects.trend.module import Trend
from projects.trend.networks import TrendNetwork, network_options
from projects.trend.probes import (
    detection_metrics,
    point_features,
    readable_frames,
    segmentation_probe,
    test_frames,
)
from projects.trend.sources import LidarPart

PREFIX = {"simulated": "", "kitti_clip": "kitti_"}  # of the metrics of a set
NUM_SHOWN = 2  # sequences in the figures
NUM_EXTREMES = 6  # windows of a gallery


def evaluate(cfg: Config, module: Trend | Finetune, workspace: Workspace) -> dict[str, float]:
    """Forecast errors of every set, then detection and segmentation from few labels."""
    metrics: dict[str, float] = {}
    with evaluated(module, cfg.trainer.accelerator):
        network = module.network
        plain = None
        if cfg.eval.untrained:
            start = step_seed(cfg.seed, 0, 0, 0)  # what training draws its weights with
            plain = untrained(lambda: TrendNetwork(**network_options(cfg)), start, network)
        # where an encoder was given, or none was pre-trained, the field has never seen a scan
        for prefix, held in held_sets(cfg) if cfg.finetune.encoder_weights is None else ():
            forecasts = forecast_metrics(cfg, network, plain, held, workspace, prefix)
            metrics |= {f"{prefix}{name}": value for name, value in forecasts.items()}
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


def held_sets(cfg: Config, part: LidarPart | None = None) -> Iterator[tuple[str, list[Held]]]:
    """Prefix of the metrics and windows of every set, of the evaluation part or another one.

    A user's scans have no prefix.
    """
    for source in dict.fromkeys(cfg.data.sources):
        clip = source == "kitti_clip"
        rays, step = (cfg.eval.clip_rays, cfg.eval.clip_step) if clip else (cfg.eval.rays, 1)
        prefix = "" if cfg.eval.own is not None else PREFIX.get(source, f"{source}_")
        yield prefix, held_out(cfg, source, rays, step, part)


def judged(
    held: Sequence[Held],
    errors: Sequence[Sequence[Floats]],
    horizon: int,
    workspace: Workspace,
    prefix: str,
) -> dict[str, float]:
    """`summary`, with the windows' values saved for claims."""
    ahead = range(1, horizon + 1)
    for name, moving in (("forecast_moving_l1", True), ("forecast_l1", None)):
        items = window_errors(held, errors, ahead, moving=moving)
        if items:
            workspace.items(f"{prefix}{name}", items)
    return summary(held, errors, horizon)


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
    metrics = judged(held, errors.ranges, horizon, workspace, prefix)
    metrics["current_intensity_l1"] = float(np.mean(window_errors(held, errors.intensity, [0])))
    metrics["opacity"] = errors.opacity
    for k in range(1, horizon + 1):
        metrics[f"chamfer_t{k}"] = chamfer_of(held, errors.ranges, k)
    own = cfg.eval.own is not None
    if own:
        skipped = held[0].num_candidates - len(held)
        if skipped:
            workspace.say(f"windows with a scan that is damaged or empty: {skipped}")
        counts = {"num_windows": float(len(held)), "num_skipped": float(skipped)}
        metrics = counts | metrics
    references = {"copy_frame" if own else "copy": copy_errors(held)}
    if plain is not None:
        references["untrained"] = errors_of(cfg, plain, held).ranges
    for name, values in references.items():
        summaries = summary(held, values, horizon)
        metrics |= {f"{name}_{key}": value for key, value in summaries.items()}
    if network.forecasts:  # what the actions are worth
        for kind in ("zero", "shuffled") if len(held) > 1 else ("zero",):
            other = errors_of(cfg, network, held, kind).ranges
            change = summary(held, other, horizon)["forecast_l1"] - metrics["forecast_l1"]
            metrics[f"{kind}_actions_change"] = change
    if cfg.eval.figures:
        show(cfg, network, held, errors, metrics, workspace, prefix)
    return metrics


def detection(cfg: Config, module: Finetune, workspace: Workspace) -> dict[str, float]:
    """Detection metrics of the pre-trained and of the scratch detector.

    A user's scans without boxes have none.
    """
    frames = test_frames(cfg)
    if cfg.eval.own is not None and not any(
        len(frame["boxes"]) for frame in readable_frames(frames)
    ):
        workspace.say(f"no scan of {cfg.eval.own} has boxes: detection is not judged")
        return {}
    metrics: dict[str, float] = {}
    for name, detector in module.detectors.items():
        scores, boxes = detection_metrics(cfg, detector, frames)  # type: ignore[arg-type]
        prefix = "" if name == "pretrained" else f"{name}_"
        metrics |= {f"{prefix}{key}": value for key, value in scores.items()}
        if cfg.eval.figures:
            limit, first = float(cfg.data.high[0]), next(readable_frames(frames))
            picture = detection_figure(
                first["points"],
                boxes[0].boxes,
                first["boxes"],
                limit,
                f"{name}: found (red), true (green)",
            )
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
    show_extremes(held, errors.ranges, limit, workspace, prefix)
    points, labels = zip(*(_point_map(network, one) for one in held[:8]), strict=True)
    mask = torch.cat(labels)
    if mask.any() and not mask.all():
        workspace.figure(
            f"{prefix}moving_points",
            embedding_map(torch.cat(points), mask.long(), ["static", "moving"], "point features"),
        )


def show_extremes(
    held: Sequence[Held],
    errors: Sequence[Sequence[Floats]],
    limit: float,
    workspace: Workspace,
    prefix: str,
) -> None:
    """Galleries of the windows with the smallest and the largest mean forecast error.

    Args:
        held: windows.
        errors: rendered minus observed ranges of every target of every window.
        limit: half the edge of a picture in metres.
        workspace: takes the galleries.
        prefix: of the set's metrics.
    """
    values = [
        window_errors([h], [e], range(1, len(e)))[0] for h, e in zip(held, errors, strict=True)
    ]
    order = np.argsort(values, kind="stable").tolist()
    for kind, chosen in (("best", order[:NUM_EXTREMES]), ("worst", order[::-1][:NUM_EXTREMES])):
        rows = []
        for i in chosen:
            results = []
            for k, (target, error) in enumerate(zip(held[i].targets, errors[i], strict=True)):
                rays = target.rays
                both = np.stack([rays["ranges"], rays["ranges"] + error])
                item = scan_overlay(rays["origin"], rays["directions"], both, limit)
                name = f"{target.time:.1f} s ahead" if target.step else "now"
                score = window_errors([held[i]], [errors[i]], [k])[0]
                results.append({"item": item, "score": score, "name": name})
            query = f"sequence {held[i].sequence + 1}, scan {held[i].first + 1}: {values[i]:.2f} m"
            rows.append({"query": query, "results": results})
        workspace.gallery(f"{kind} forecasts {prefix.rstrip('_')}".strip(), rows)


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
    copied = "copy_" if cfg.eval.own is None else "copy_frame_"
    for name, prefix in (("forecast", ""), ("copied scan", copied), ("untrained", "untrained_")):
        keys = [f"{prefix}current_l1", *(f"{prefix}forecast_l1_t{k}" for k in steps if k)]
        if all(key in metrics for key in keys):
            axes.plot(steps, [metrics[key] for key in keys], marker="o", label=name)
    axes.set(xlabel="frames ahead", ylabel="range L1 (m)", xticks=list(steps))
    axes.legend(fontsize=8)
    return figure

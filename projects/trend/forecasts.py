"""Forecast errors on held-out sequences, split by motion, with copies and untrained nets beside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.lidar.augment import PlanarSimilarity
from common.data.lidar.rays import inside
from common.data.lidar.sequences import LidarSet, Window, windows
from common.data.samplers import sample_rng
from common.evaluation.lidar.scans import chamfer, copied_ranges
from projects.trend.config import Config
from projects.trend.data import (
    as_rays,
    candidates,
    elapsed,
    in_first_frame,
    window_actions,
)
from projects.trend.module import conditioned
from projects.trend.networks import Rays, TrendNetwork
from projects.trend.sources import STRIDE, open_source

Floats = NDArray[np.floating]
MOVED = 1.0  # metres: a ray that a still copy misses by more shows motion or a fresh view


@dataclass
class Target:
    """A frame of a held-out window, to be rendered.

    Attributes:
        step: frames ahead of the current one.
        time: seconds.
        rays: origin, directions, ranges, intensity.
        moving: (R,) bool, returns of moving objects; by the copy's error where that is unknown.
        copied: (R,) ranges of the current scan held still in the world.
    """

    step: int
    time: float
    rays: dict[str, Any]
    moving: NDArray[np.bool_]
    copied: Floats


@dataclass
class Held:
    """A held-out window: what the network sees, and what came after."""

    points: Floats
    actions: Floats
    targets: list[Target]


@dataclass
class Errors:
    """Rendered minus observed ranges of every target of every window, and opacities."""

    ranges: list[list[Floats]]
    intensity: list[list[Floats]]
    opacity: float


def held_out(cfg: Config, source: Any, rays: int, step: int = 1) -> list[Held]:
    """Windows of the evaluation part with rays that depend on nothing but the part."""
    data: LidarSet = open_source(cfg, source, cfg.eval.split)
    stride = cfg.data.stride * STRIDE.get(source, 1)
    items = windows(0, data, cfg.eval.horizon, stride, step)
    if source == "simulated":
        items = [w for w in items if w.first == 0]
    most = cfg.eval.max_windows
    if most and len(items) > most:
        items = [items[i * len(items) // most] for i in range(most)]
    return [_held(cfg, data, item, rays, number) for number, item in enumerate(items)]


def _held(cfg: Config, data: LidarSet, item: Window, rays: int, number: int) -> Held:
    still = PlanarSimilarity()
    current = data.frame(item.sequence, item.first)
    low, high = np.array(cfg.data.low), np.array(cfg.data.high)
    seen = current.points[inside(current.points, low, high), : 3 + cfg.data.num_features]
    targets = []
    for step in range(cfg.eval.horizon + 1):
        frame = data.frame(item.sequence, item.first + step * item.stride)
        points, origin = in_first_frame(data, item, step, frame, still)
        rows = candidates(frame.points, points, cfg.data)
        rng = sample_rng(0, step, number)
        if frame.moving is not None:  # all moving returns, and others
            order = rng.permutation(rows)
            rows = order[np.argsort(~frame.moving[order], kind="stable")][:rays]
        else:
            rows = rng.permutation(rows)[:rays]
        found = as_rays(points[rows], origin)
        copied = copied_ranges(current.points, origin, found["directions"])
        moving = (
            np.abs(copied - found["ranges"]) > MOVED if frame.moving is None else frame.moving[rows]
        )
        targets.append(Target(step, elapsed(data, item, step), found, moving, copied))
    return Held(seen, window_actions(data, item, cfg.eval.horizon), targets)


def errors_of(
    cfg: Config, network: TrendNetwork, held: Sequence[Held], actions: str | None = None
) -> Errors:
    """Forecast all windows; a network that never forecast holds its volume still at time 0.

    Args:
        cfg: the experiment's config.
        network: in evaluation mode.
        held: windows.
        actions: true, zero or shuffled; None: as in training.
    """
    ranges: list[list[Floats]] = []
    intensity: list[list[Floats]] = []
    opacity: list[float] = []
    size = cfg.eval.batch_size
    for start in range(0, len(held), size):
        part = held[start : start + size]
        rows = _rendered(cfg, network, part, actions)
        for i, one in enumerate(part):
            own = [row[i] for row in rows]
            pairs = list(zip(own, one.targets, strict=True))
            ranges.append([r - t.rays["ranges"] for (r, _, _), t in pairs])
            intensity.append([v - t.rays["intensity"] for (_, v, _), t in pairs])
            opacity += [float(o.mean()) for _, _, o in own]
    return Errors(ranges, intensity, float(np.mean(opacity)))


def _rendered(
    cfg: Config, network: TrendNetwork, part: Sequence[Held], actions: str | None
) -> list[list[tuple[Floats, Floats, Floats]]]:
    """Ranges, intensities and opacities of every frame of several windows, frame by frame."""
    device = next(network.parameters()).device
    forecasts = cfg.method.horizons[-1] > 0
    points = torch.from_numpy(np.concatenate([one.points for one in part])).to(device)
    owner = torch.repeat_interleave(
        torch.arange(len(part)), torch.tensor([len(one.points) for one in part])
    ).to(device)
    volume = network.encode(points, owner, len(part))
    given = _tensor([one.actions for one in part], device)
    given = conditioned(given, actions or cfg.method.actions)
    one_step = torch.ones(len(part), dtype=torch.long, device=device)
    found = []
    for step in range(cfg.eval.horizon + 1):
        if step and forecasts:
            volume = network.recurrent(volume, given[:, step - 1 : step], one_step)
        targets = [one.targets[step] for one in part]
        rays = Rays(
            _tensor([t.rays["origin"] for t in targets], device),
            _padded([t.rays["directions"] for t in targets], device),
            _tensor([t.time if forecasts else 0.0 for t in targets], device),
            _padded([t.rays["ranges"] for t in targets], device),
        )
        scan = network.render(volume, rays)
        values = [x.cpu().double().numpy() for x in (scan.ranges, scan.intensity, scan.opacity)]
        counts = [len(t.rays["ranges"]) for t in targets]
        found.append(
            [(values[0][i, :n], values[1][i, :n], values[2][i, :n]) for i, n in enumerate(counts)]
        )
    return found


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)


def _padded(values: Sequence[Floats], device: torch.device) -> Tensor:
    """Stack rows of unequal length; the last one is repeated."""
    most = max(len(v) for v in values)
    rows = [v[np.minimum(np.arange(most), len(v) - 1)] for v in values]
    return _tensor(np.stack(rows), device)


def summary(
    held: Sequence[Held], errors: Sequence[Sequence[Floats]], horizon: int
) -> dict[str, float]:
    """Mean absolute range errors: of all, moving and static rays, of each horizon, and squared.

    Every value is a mean over windows of the mean over their rays; ``forecast`` is over the frames
    1 to `horizon`, ``current`` is frame 0.
    """
    metrics = {
        "current_l1": _mean_of_windows([np.abs(e[0]) for e in errors]),
        "forecast_moving_l1": float(np.mean(moving_items(held, errors))),
        "forecast_static_l1": _split(held, errors, moving=False),
        "forecast_l1": _mean_of_windows([np.abs(np.concatenate(e[1:])) for e in errors]),
        "forecast_mse": _mean_of_windows([np.concatenate(e[1:]) ** 2 for e in errors]),
    }
    for k in range(1, horizon + 1):
        metrics[f"forecast_l1_t{k}"] = _mean_of_windows([np.abs(e[k]) for e in errors])
    return metrics


def moving_items(held: Sequence[Held], errors: Sequence[Sequence[Floats]]) -> list[float]:
    """Mean absolute error over the moving rays of each window that has some; 0 if none has."""
    return _items(held, errors, moving=True) or [0.0]


def _items(
    held: Sequence[Held], errors: Sequence[Sequence[Floats]], *, moving: bool
) -> list[float]:
    found = []
    for one, error in zip(held, errors, strict=True):
        mask = np.concatenate([t.moving == moving for t in one.targets[1:]])
        if mask.any():
            found.append(float(np.abs(np.concatenate(error[1:]))[mask].mean()))
    return found


def _split(held: Sequence[Held], errors: Sequence[Sequence[Floats]], *, moving: bool) -> float:
    return float(np.mean(_items(held, errors, moving=moving) or [0.0]))


def _mean_of_windows(values: Sequence[Floats]) -> float:
    return float(np.mean([v.mean() for v in values]))


def copy_errors(held: Sequence[Held]) -> list[list[Floats]]:
    """Errors of the current scan held still in the world, moved by the pose."""
    return [[t.copied - t.rays["ranges"] for t in one.targets] for one in held]


def chamfer_of(held: Sequence[Held], errors: Sequence[Sequence[Floats]], step: int) -> float:
    """Mean chamfer distance in metres of rendered and observed points some frames ahead."""
    values = []
    for one, error in zip(held, errors, strict=True):
        rays = one.targets[step].rays
        true = rays["origin"] + rays["ranges"][:, None] * rays["directions"]
        drawn = rays["origin"] + (rays["ranges"] + error[step])[:, None] * rays["directions"]
        values.append(chamfer(drawn, true))
    return float(np.mean(values))


def moving_points(held: Held) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns (R, 3) of the current frame and whether they move."""
    target = held.targets[0]
    rays = target.rays
    return rays["ranges"][:, None] * rays["directions"] + rays["origin"], target.moving

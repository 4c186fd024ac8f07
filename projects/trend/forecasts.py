"""Forecast errors on held-out sequences, split by motion, next to copies and untrained networks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.samplers import sample_rng
from projects.trend.config import Config
from projects.trend.data import (
    as_rays,
    candidates,
    elapsed,
    in_first_frame,
    window_actions,
)
from projects.trend.evaluation.forecast_errors import chamfer, copied_ranges
from projects.trend.networks import Rays, TrendNetwork
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.rays import inside
from projects.trend.scans.sequences import LidarSet, Window, windows
from projects.trend.sources import STRIDE, LidarPart, open_source

Floats = NDArray[np.floating]
MOVED = 1.0  # metres: a ray that a still copy misses by more shows motion or a fresh view


@dataclass
class Target:
    """A frame of a held-out window, to be rendered.

    Attributes:
        step: frames ahead of the current one.
        time: seconds.
        rays: origin, directions, ranges, intensity.
        weight: (R,) how many returns of the frame a ray stands for.
        moving: (R,) bool, returns of moving objects; by the copy's error where that is unknown.
        copied: (R,) ranges of the current scan held still in the world.
    """

    step: int
    time: float
    rays: dict[str, Any]
    weight: Floats
    moving: NDArray[np.bool_]
    copied: Floats


@dataclass
class Held:
    """A held-out window: what the network sees, and what came after.

    Attributes:
        sequence: number of its sequence.
        first: number of its current frame in the sequence.
        points: (N, 3 + d) of the current frame inside the grid.
        actions: (L, 3) ego actions to the frame after each.
        targets: the current frame, and those after it.
        num_candidates: windows of its set, with those that are left out: they lack a return above
            the ground, or a scan of theirs is damaged.
    """

    sequence: int
    first: int
    points: Floats
    actions: Floats
    targets: list[Target]
    num_candidates: int = 1


@dataclass
class Errors:
    """Rendered minus observed ranges of every target of every window, and their mean opacity.

    The opacity is that of the judged rays, not weighted: where half of them end on moving objects,
    so do half of those in this mean.
    """

    ranges: list[list[Floats]]
    intensity: list[list[Floats]]
    opacity: float


def held_out(
    cfg: Config, source: Any, rays: int, step: int = 1, part: LidarPart | None = None
) -> list[Held]:
    """Windows of the evaluation part (or another one) with rays that depend on the part alone.

    Windows with a damaged scan are left out, counted and logged.

    Raises:
        UserError: in no window every frame has a return above the ground in the grid, or too many
            windows have a damaged scan.
    """
    data: LidarSet = open_source(cfg, source, part or cfg.eval.split)
    stride = cfg.data.stride * STRIDE.get(source, 1)
    items = windows(0, data, cfg.eval.horizon, stride, step)
    if source == "simulated":
        items = [w for w in items if w.first == 0]
    most = cfg.eval.max_windows
    if most and len(items) > most:
        items = [items[i * len(items) // most] for i in range(most)]
    whole: list[Held] = []
    corrupt = CorruptCounter(f"held-out windows of {source}")
    for number, item in enumerate(items):
        try:
            one = _held(cfg, data, item, rays, number)
        except (OSError, ValueError) as error:
            corrupt.bad(f"sequence {item.sequence + 1}, scan {item.first + 1}", error)
            continue
        corrupt.good()
        if one is not None:
            whole.append(one)
    if not whole:
        raise UserError(f"no window of {source} has returns above the ground in all its frames")
    return [replace(one, num_candidates=len(items)) for one in whole]


def _held(cfg: Config, data: LidarSet, item: Window, rays: int, number: int) -> Held | None:
    """A window, or None if a frame has no return above the ground in the grid."""
    still = PlanarSimilarity()
    # the threshold of the evaluation, not that of the training rays: all arms are asked the same
    judged = replace(cfg.data, ground_threshold=cfg.eval.ground_threshold)
    current = data.frame(item.sequence, item.first)
    low, high = np.array(cfg.data.low), np.array(cfg.data.high)
    seen = current.points[inside(current.points, low, high), : 3 + cfg.data.num_features]
    targets = []
    for step in range(cfg.eval.horizon + 1):
        frame = data.frame(item.sequence, item.first + step * item.stride)
        points, origin = in_first_frame(data, item, step, frame, still)
        every = candidates(frame.points, points, judged)
        if not len(every):
            return None
        rows, weight = _drawn(every, frame.moving, rays, sample_rng(0, step, number))
        target_rays = as_rays(points[rows], origin)
        copied = copied_ranges(current.points, origin, target_rays["directions"])
        moving = (
            np.abs(copied - target_rays["ranges"]) > MOVED
            if frame.moving is None
            else frame.moving[rows]
        )
        targets.append(Target(step, elapsed(data, item, step), target_rays, weight, moving, copied))
    actions = window_actions(data, item, cfg.eval.horizon)
    return Held(item.sequence, item.first, seen, actions, targets)


def _drawn(
    rows: NDArray[np.int64], moving: NDArray[np.bool_] | None, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], Floats]:
    """At most `count` of a frame's returns, and how many each stands for.

    Half of them are returns of moving objects where there are enough, so that a mean over these is
    known as well as one over the others; weighted, both keep their share of the frame.
    """
    order = rng.permutation(rows)
    if moving is None:
        return order[:count], np.full(min(count, len(rows)), max(1.0, len(rows) / count))
    moves, stands = order[moving[order]], order[~moving[order]]
    num_moves = min(len(moves), max(count // 2, count - len(stands)))
    parts = (moves, num_moves), (stands, min(len(stands), count - num_moves))
    chosen = np.concatenate([kind[:n] for kind, n in parts])
    return chosen, np.concatenate([np.full(n, len(kind) / max(1, n)) for kind, n in parts])


def errors_of(
    cfg: Config, network: TrendNetwork, held: Sequence[Held], actions: str | None = None
) -> Errors:
    """Forecast all windows; a network without forecasting holds its volume still at time 0.

    Args:
        cfg: the experiment's config.
        network: in evaluation mode.
        held: windows.
        actions: true, zero or shuffled; None: as in training.

    Raises:
        UserError: shuffled actions of a single window.
    """
    kind, size = actions or cfg.method.actions, cfg.eval.batch_size
    if kind == "shuffled" and len(held) < 2:
        raise UserError(
            "shuffled actions are those of another window, and one alone is held out: lower "
            "eval.horizon or eval.clip_step, or hold out more"
        )
    all_actions = [one.actions for one in held]
    if kind == "shuffled":
        all_actions = [all_actions[i] for i in partners(held, size)]
    elif kind == "zero":
        all_actions = [np.zeros_like(action) for action in all_actions]
    ranges: list[list[Floats]] = []
    intensity: list[list[Floats]] = []
    opacity: list[float] = []
    for start in range(0, len(held), size):
        part = held[start : start + size]
        rows = _rendered(cfg, network, part, all_actions[start : start + size])
        for i, one in enumerate(part):
            rendered = [row[i] for row in rows]
            pairs = list(zip(rendered, one.targets, strict=True))
            ranges.append([r - t.rays["ranges"] for (r, _, _), t in pairs])
            intensity.append([v - t.rays["intensity"] for (_, v, _), t in pairs])
            opacity += [float(o.mean()) for _, _, o in rendered]
    return Errors(ranges, intensity, float(np.mean(opacity)))


def partners(held: Sequence[Held], size: int) -> list[int]:
    """The window whose actions each window is given when they are shuffled.

    As in training that before it in its batch, but one of another drive: windows of one drive
    overlap and have nearly equal actions. Where that one is of the same drive it is the one half
    the set away.

    Args:
        held: windows.
        size: of a batch.
    """
    indices = []
    for i, one in enumerate(held):
        start = i - i % size
        before = i - 1 if i > start else min(start + size, len(held)) - 1
        same = held[before].sequence == one.sequence
        indices.append((i + len(held) // 2) % len(held) if same else before)
    return indices


def _rendered(
    cfg: Config, network: TrendNetwork, part: Sequence[Held], actions: Sequence[Floats]
) -> list[list[tuple[Floats, Floats, Floats]]]:
    """Ranges, intensities and opacities of every frame of several windows, frame by frame."""
    device = next(network.parameters()).device
    forecasts = network.forecasts
    points = torch.from_numpy(np.concatenate([one.points for one in part])).to(device)
    owner = torch.repeat_interleave(
        torch.arange(len(part)), torch.tensor([len(one.points) for one in part])
    ).to(device)
    volume = network.encode(points, owner, len(part))
    known_actions = _tensor(actions, device)
    one_step = torch.ones(len(part), dtype=torch.long, device=device)
    renderings = []
    for step in range(cfg.eval.horizon + 1):
        if step and forecasts:
            volume = network.recurrent(volume, known_actions[:, step - 1 : step], one_step)
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
        renderings.append(
            [(values[0][i, :n], values[1][i, :n], values[2][i, :n]) for i, n in enumerate(counts)]
        )
    return renderings


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
    """Mean absolute range errors: of all, moving and static returns, of each horizon, and squared.

    Every value is a mean over windows of the mean over their returns; ``forecast`` is over the
    frames 1 to `horizon`, ``current`` is frame 0. Where no window has a moving (static) return its
    keys are missing.
    """
    ahead = range(1, horizon + 1)
    values_of = {
        "current_l1": window_errors(held, errors, [0]),
        "forecast_moving_l1": window_errors(held, errors, ahead, moving=True),
        "forecast_static_l1": window_errors(held, errors, ahead, moving=False),
        "forecast_l1": window_errors(held, errors, ahead),
        "forecast_mse": window_errors(held, errors, ahead, power=2),
    }
    for k in ahead:
        values_of[f"forecast_l1_t{k}"] = window_errors(held, errors, [k])
        values_of[f"forecast_moving_l1_t{k}"] = window_errors(held, errors, [k], moving=True)
    return {name: float(np.mean(values)) for name, values in values_of.items() if values}


def window_errors(
    held: Sequence[Held],
    errors: Sequence[Sequence[Floats]],
    frames: Sequence[int],
    *,
    moving: bool | None = None,
    power: int = 1,
) -> list[float]:
    """Mean |error|^power over the returns of some frames, of each window that has such returns.

    Args:
        held: windows.
        errors: of every frame's rays of every window.
        frames: numbers of the frames ahead.
        moving: only returns of moving (True) or standing (False) objects; None: of all.
        power: 1 or 2.
    """
    means = []
    for one, error in zip(held, errors, strict=True):
        targets = [one.targets[k] for k in frames]
        weight = np.concatenate([t.weight for t in targets])
        if moving is not None:
            weight = weight * (np.concatenate([t.moving for t in targets]) == moving)
        if weight.any():
            values = np.abs(np.concatenate([error[k] for k in frames])) ** power
            means.append(float((weight * values).sum() / weight.sum()))
    return means


def copy_errors(held: Sequence[Held]) -> list[list[Floats]]:
    """Errors of the current scan held still in the world, moved by the pose."""
    return [[t.copied - t.rays["ranges"] for t in one.targets] for one in held]


def chamfer_of(held: Sequence[Held], errors: Sequence[Sequence[Floats]], step: int) -> float:
    """Mean chamfer distance in metres of rendered and observed points some frames ahead.

    The points are the ends of the judged rays, not weighted: where half of them are returns of
    moving objects, so is half of either cloud.
    """
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

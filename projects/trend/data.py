"""Sets of sequences of a config, and the samples that pre-training reads."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from common.data.corrupt import CorruptCounter
from common.data.module import ContrastiveData
from common.data.samplers import Key, sample_rng
from projects.trend.config import Config, TrendData
from projects.trend.objective import horizon_probabilities
from projects.trend.scans.augment import PlanarSimilarity, draw_similarity
from projects.trend.scans.poses import planar_action, relative, transform
from projects.trend.scans.rays import above_ground, block_mask, choose, inside
from projects.trend.scans.sequences import LidarFrame, LidarSet, Window, first_readable, windows
from projects.trend.sources import LidarPart, open_source, strides

Floats = NDArray[np.floating]


class ForecastBatch(TypedDict):
    """B samples of F frames (the current one, and a future one) with R rays each; frame of t_0.

    points (N, 3 + d) of the masked current scans, owner (N,) their sample; actions (B, L, 3);
    steps (B, F) frames ahead; times (B, F) seconds; origins (B, F, 3); directions (B, F, R, 3);
    ranges and intensity (B, F, R); ids (B,); skipped: corrupt samples passed over.
    """

    points: Tensor
    owner: Tensor
    actions: Tensor
    steps: Tensor
    times: Tensor
    origins: Tensor
    directions: Tensor
    ranges: Tensor
    intensity: Tensor
    ids: Tensor
    skipped: int


class ForecastSamples(Dataset[ForecastBatch]):
    """Windows of sequences; every draw is a function of (seed, epoch, index).

    Args:
        sets: sets of sequences.
        items: windows of them, with at least `horizon` future frames.
        data: grid, rays, masking and augmentation.
        horizon: future frames of this stage; 0 gives the current frame alone.
        decay: of the draw of the future frame.
        seed: the experiment's seed.
    """

    def __init__(
        self,
        sets: Sequence[LidarSet],
        items: Sequence[Window],
        data: TrendData,
        horizon: int,
        decay: float,
        seed: int,
    ) -> None:
        self.sets, self.items, self.data = sets, items, data
        self.horizon, self.seed = horizon, seed
        self.probabilities = horizon_probabilities(horizon, decay)
        self.corrupt = CorruptCounter("LiDAR frames")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, keys: list[Key]) -> ForecastBatch:
        before = self.corrupt.skipped
        samples = [self._readable(index, epoch) for index, epoch in keys]
        return collate(samples, self.corrupt.skipped - before)

    def _readable(self, index: int, epoch: int) -> dict[str, Any]:
        def read(number: int) -> dict[str, Any]:
            return self.sample(number, sample_rng(self.seed, epoch, index))

        return first_readable(read, index, self.items, self.corrupt)

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One window: the masked current scan and rays of the current and a future frame."""
        data, item = self.data, self.items[index]
        change = draw_similarity(rng, data)
        steps = [0]
        if self.horizon:
            steps.append(1 + int(rng.choice(self.horizon, p=self.probabilities)))
        source = self.sets[item.source]
        rays = [frame_rays(source, item, step, change, data, data.rays, rng) for step in steps]
        current = source.frame(item.sequence, item.first)
        points = change.points(current.points[:, : 3 + data.num_features])
        points = points[inside(points, np.array(data.low), np.array(data.high))]
        kept = block_mask(
            points, np.array(data.low), np.array(data.voxel), data.mask_block, data.mask_rate, rng
        )
        actions = change.actions(window_actions(source, item, self.horizon))
        return {
            "points": points[kept],
            "actions": actions,
            "steps": steps,
            "rays": rays,
            "id": index,
        }


def window_actions(source: LidarSet, item: Window, horizon: int) -> Floats:
    """Ego actions (horizon, 3) between the frames of a window."""
    poses = [source.pose(item.sequence, item.first + k * item.stride) for k in range(horizon + 1)]
    actions = [planar_action(a, b) for a, b in pairwise(poses)]
    return np.array(actions).reshape(horizon, 3)


def frame_rays(
    source: LidarSet,
    item: Window,
    step: int,
    change: PlanarSimilarity,
    data: TrendData,
    count: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Rays of one frame of a window in the (augmented) frame of t_0.

    Raises:
        ValueError: no return above the ground lies in the grid.
    """
    frame = source.frame(item.sequence, item.first + step * item.stride)
    points, origin = in_first_frame(source, item, step, frame, change)
    rows = candidates(frame.points, points, data)
    rows = rows[choose(points[rows], count, rng, data.sampling)]
    return {**as_rays(points[rows], origin), "time": elapsed(source, item, step), "rows": rows}


def in_first_frame(
    source: LidarSet, item: Window, step: int, frame: LidarFrame, change: PlanarSimilarity
) -> tuple[Floats, Floats]:
    """Points (N, 3 + d) and sensor (3,) of a frame in the augmented frame of t_0."""
    pose = relative(source.pose(item.sequence, item.first), frame.pose)
    points = change.points(transform(pose, frame.points))
    return points, change.matrix @ pose[:3, 3]


def candidates(raw: Floats, points: Floats, data: TrendData) -> NDArray[np.int64]:
    """Rows that may become rays: above the ground of their own frame, and inside the grid."""
    mask = inside(points, np.array(data.low), np.array(data.high))
    if data.ground_threshold >= 0:
        mask &= above_ground(raw, data.sensor_height, data.ground_threshold)
    return np.flatnonzero(mask)


def as_rays(points: Floats, origin: Floats) -> dict[str, Any]:
    """Directions, ranges and intensities of returns (R, 4+) seen from an origin (3,)."""
    offset = points[:, :3].astype(np.float64) - origin
    ranges = np.maximum(np.linalg.norm(offset, axis=1), 1e-3)
    return {
        "origin": origin,
        "directions": offset / ranges[:, None],
        "ranges": ranges,
        "intensity": points[:, 3],
    }


def elapsed(source: LidarSet, item: Window, step: int) -> float:
    """Seconds from t_0 to a frame of a window."""
    first, last = (source.time(item.sequence, item.first + k * item.stride) for k in (0, step))
    return last - first


def collate(samples: Sequence[dict[str, Any]], skipped: int = 0) -> ForecastBatch:
    """Stack samples; points stay ragged with the number of their sample."""
    counts = [len(s["points"]) for s in samples]
    rays = {
        name: _float([[ray[name] for ray in s["rays"]] for s in samples])
        for name in ("origin", "directions", "ranges", "intensity", "time")
    }
    return {
        "points": _float(np.concatenate([s["points"] for s in samples])),
        "owner": torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(counts)),
        "actions": _float([s["actions"] for s in samples]).view(len(samples), -1, 3),
        "steps": torch.tensor([s["steps"] for s in samples]),
        "times": rays["time"],
        "origins": rays["origin"],
        "directions": rays["directions"],
        "ranges": rays["ranges"],
        "intensity": rays["intensity"],
        "ids": torch.tensor([s["id"] for s in samples]),
        "skipped": skipped,
    }


def _float(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def open_sets(cfg: Config, part: LidarPart) -> list[LidarSet]:
    """All sets of the config.

    Raises:
        UserError: files are missing.
    """
    return [open_source(cfg, name, part) for name in cfg.data.sources]


def build_data(cfg: Config, sets: Sequence[LidarSet], horizon: int) -> ContrastiveData:
    """Training windows of one stage of the curriculum.

    Every stage has the windows that the longest horizon (or `data.frames_ahead`) allows, so that
    stages differ in nothing but the horizon.
    """
    items = [
        window
        for number, (data, stride) in enumerate(zip(sets, strides(cfg), strict=True))
        for window in windows(number, data, cfg.frames_ahead, stride)
    ]
    samples = ForecastSamples(sets, items, cfg.data, horizon, cfg.method.decay, cfg.seed)
    return ContrastiveData(
        samples,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed + horizon,
        num_workers=cfg.data.num_workers,
    )

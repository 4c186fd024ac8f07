"""What the encoder is worth downstream: detection metrics and a linear segmentation probe."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.samplers import sample_rng
from common.evaluation.features.linear_probe import fit_logistic_regression
from projects.trend.config import Config, Source
from projects.trend.encoders.detector import Detector
from projects.trend.encoders.trilinear import trilinear
from projects.trend.evaluation.average_precision import FrameBoxes, nuscenes_metrics
from projects.trend.evaluation.forecast_errors import segmentation_scores
from projects.trend.evaluation.rotated_iou import once_metrics
from projects.trend.finetune import labelled_source
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.boxes import BoxesInGrid, collate_frames, labelled_frames
from projects.trend.scans.kitti import SEMANTIC_CLASSES
from projects.trend.scans.rays import inside
from projects.trend.scans.sequences import LidarFrame, LidarSet
from projects.trend.scans.simulator import CLASSES
from projects.trend.sources import open_source

POINTS_PER_FRAME = 400  # of the segmentation probe
L2 = 1e-4
T = TypeVar("T")
SEMANTIC = {"simulated": CLASSES, "semantic_kitti": SEMANTIC_CLASSES}


@dataclass(frozen=True)
class JudgedFrames:
    """Labelled frames without augmentation, read on access, as a whole set may not fit in memory.

    Attributes:
        data: the set.
        places: (sequence, index) of the frames.
        select: what of a frame is used.
    """

    data: LidarSet
    places: Sequence[tuple[int, int]]
    select: BoxesInGrid

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.select(self.data.frame(*self.places[number]), PlanarSimilarity())


def test_frames(cfg: Config) -> JudgedFrames:
    """Labelled frames of the evaluation part."""
    data = open_source(cfg, labelled_source(cfg), cfg.eval.split, cfg.finetune.folder)
    return JudgedFrames(data, labelled_frames(data, 0), BoxesInGrid(cfg.data, cfg.finetune.classes))


Frames = JudgedFrames | Sequence[dict[str, Any]]


def readable(read: Callable[[int], T], count: int) -> Iterator[T]:
    """What can be read of `count` frames, in order; damaged ones are counted and logged.

    Raises:
        UserError: too many are damaged.
    """
    corrupt = CorruptCounter("judged LiDAR frames")
    for number in range(count):
        try:
            frame = read(number)
        except (OSError, ValueError) as error:
            corrupt.bad(f"frame {number + 1}", error)
            continue
        corrupt.good()
        yield frame


def readable_frames(frames: Frames) -> Iterator[dict[str, Any]]:
    """`readable` of labelled frames."""
    return readable(lambda number: frames[number], len(frames))


def readable_scans(data: LidarSet, places: Sequence[tuple[int, int]]) -> Iterator[LidarFrame]:
    """`readable` of frames (sequence, index) of a set."""
    return readable(lambda number: data.frame(*places[number]), len(places))


def true_boxes(frame: dict[str, Any]) -> FrameBoxes:
    """The boxes of a frame, as a truth."""
    return FrameBoxes(frame["boxes"], frame["labels"], np.ones(len(frame["labels"])))


def detect(
    detector: Detector, frames: Frames, batch_size: int
) -> tuple[list[FrameBoxes], list[FrameBoxes]]:
    """Predicted and true boxes of all readable frames, each of which is read once."""
    device = next(detector.parameters()).device
    detections, truth = [], []
    stream = readable_frames(frames)
    while part := list(islice(stream, batch_size)):
        batch = collate_frames(part, range(len(part)))
        boxes = detector.detect(batch["points"].to(device), batch["owner"].to(device), len(part))
        truth += [true_boxes(frame) for frame in part]
        detections += [
            FrameBoxes(
                b.boxes.cpu().double().numpy(),
                b.labels.cpu().numpy(),
                b.scores.cpu().double().numpy(),
            )
            for b in boxes
        ]
    return detections, truth


def detection_metrics(
    cfg: Config, detector: Detector, frames: Frames
) -> tuple[dict[str, float], list[FrameBoxes]]:
    """NuScenes metrics; on ONCE and Waymo the average precisions over rotated overlaps as well."""
    detections, truth = detect(detector, frames, cfg.eval.batch_size)
    metrics = nuscenes_metrics(detections, truth, cfg.finetune.classes)
    if labelled_source(cfg) in ("once", "waymo"):
        once = once_metrics(detections, truth, cfg.finetune.classes)
        metrics |= {f"once_{name}": value for name, value in once.items()}
    return metrics, detections


def point_features(encoder: Any, points: Tensor) -> Tensor:
    """Volume features at points (N, 3 + d) of one scan: (N, C)."""
    volume = encoder(points, torch.zeros(len(points), dtype=torch.long, device=points.device), 1)
    grid = encoder.grid
    low, high = points.new_tensor(grid.low), points.new_tensor(grid.high)
    place = (points[:, :3] - low) / (high - low) * 2 - 1
    return trilinear(volume, place[None])[0]


def semantic_source(cfg: Config) -> Source:
    """The first set of the config with labelled points.

    Raises:
        UserError: none has.
    """
    for name in cfg.data.sources:
        if name in SEMANTIC:
            return name
    raise UserError(
        f"eval.segmentation_frames needs one of {', '.join(SEMANTIC)} among data.sources"
    )


def segmentation_probe(cfg: Config, encoder: Any) -> dict[str, float]:
    """Mean IoU and accuracy of a linear classifier of points on frozen volume features.

    Raises:
        UserError: no set of the config has labelled points.
    """
    name, parts = semantic_source(cfg), []
    for part in ("labelled", cfg.eval.split):
        data: LidarSet = open_source(cfg, name, part)
        frames = labelled_frames(data, cfg.eval.segmentation_frames)
        parts.append(_points_of(list(readable_scans(data, frames)), cfg, encoder))
    (x, y), (test_x, test_y) = parts
    mean, spread = x.mean(0), x.std(0) + 1e-5
    count = len(SEMANTIC[name])
    weight, bias = fit_logistic_regression((x - mean) / spread, y, L2, count, max_iterations=60)
    predicted = ((test_x - mean) / spread @ weight.T + bias).argmax(1)
    return segmentation_scores(predicted.numpy(), test_y.numpy(), count)


def _points_of(frames: Sequence[LidarFrame], cfg: Config, encoder: Any) -> tuple[Tensor, Tensor]:
    """Features and labels of some labelled points of each frame."""
    low, high = np.array(cfg.data.low), np.array(cfg.data.high)
    device = next(encoder.parameters()).device
    features, labels = [], []
    for number, frame in enumerate(frames):
        assert frame.labels is not None
        kept = inside(frame.points, low, high)
        points, point_labels = frame.points[kept, : 3 + cfg.data.num_features], frame.labels[kept]
        rows = sample_rng(0, 0, number).permutation(np.flatnonzero(point_labels >= 0))[
            :POINTS_PER_FRAME
        ]
        outputs = point_features(encoder, torch.from_numpy(points).float().to(device))
        features.append(outputs[torch.from_numpy(rows).to(device)].float().cpu())
        labels.append(torch.from_numpy(point_labels[rows]))
    return torch.cat(features), torch.cat(labels)

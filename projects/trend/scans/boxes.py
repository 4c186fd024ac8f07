"""Labelled LiDAR frames in batches for detectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.data.corrupt import CorruptCounter
from common.data.samplers import Key, sample_rng
from projects.trend.scans.augment import PlanarSimilarity, draw_similarity
from projects.trend.scans.options import LidarData, PlanarAugment
from projects.trend.scans.rays import inside
from projects.trend.scans.sequences import LidarFrame, LidarSet, first_readable


class DetectionBatch(TypedDict):
    """B labelled frames: points (N, 3 + d), owner (N,), boxes and labels per frame."""

    points: Tensor
    owner: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    ids: Tensor
    skipped: int


@dataclass(frozen=True)
class BoxesInGrid:
    """What a detector is given of a frame.

    Attributes:
        data: grid, and the number of point features.
        classes: names of the boxes that count.
    """

    data: LidarData
    classes: Sequence[str]

    def __call__(self, frame: LidarFrame, change: PlanarSimilarity) -> dict[str, Any]:
        """Points and boxes inside the grid; boxes without a point and of other classes are out."""
        low, high = np.array(self.data.low), np.array(self.data.high)
        points = change.points(frame.points[:, : 3 + self.data.num_features])
        boxes = change.boxes(frame.boxes)
        index = {name: i for i, name in enumerate(self.classes)}
        labels = np.array([index.get(name, -1) for name in frame.names], dtype=np.int64)
        kept = (labels >= 0) & (frame.num_points != 0) & inside(boxes, low, high)
        return {
            "points": points[inside(points, low, high)],
            "boxes": boxes[kept],
            "labels": labels[kept],
        }


class LabelledFrames(Dataset[DetectionBatch]):
    """Augmented frames with boxes; every draw is a function of (seed, epoch, index).

    Velocities that the set does not know (NaN) are 0 as targets. In place of a damaged frame comes
    the next one.

    Args:
        data: the set.
        frames: (sequence, index) of the frames.
        select: what of a frame is used.
        augment: bounds of the augmentation.
        seed: the experiment's seed.
    """

    def __init__(
        self,
        data: LidarSet,
        frames: Sequence[tuple[int, int]],
        select: BoxesInGrid,
        augment: PlanarAugment,
        seed: int,
    ) -> None:
        self.data, self.frames, self.select = data, list(frames), select
        self.augment, self.seed = augment, seed
        self.corrupt = CorruptCounter("labelled LiDAR frames")

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, keys: list[Key]) -> DetectionBatch:
        before = self.corrupt.skipped
        samples = [self._readable(index, epoch) for index, epoch in keys]
        ids = [sample["id"] for sample in samples]
        return collate_frames(samples, ids, self.corrupt.skipped - before)

    def _readable(self, index: int, epoch: int) -> dict[str, Any]:
        change = draw_similarity(sample_rng(self.seed, epoch, index, stream=1), self.augment)

        def read(number: int) -> dict[str, Any]:
            sample = self.select(self.data.frame(*self.frames[number]), change)
            return {**sample, "boxes": np.nan_to_num(sample["boxes"]), "id": number}

        return first_readable(read, index, self.frames, self.corrupt)


def collate_frames(
    samples: Sequence[dict[str, Any]], ids: Sequence[int], skipped: int = 0
) -> DetectionBatch:
    """Stack frames; points stay ragged with the number of their frame."""
    counts = torch.tensor([len(s["points"]) for s in samples])
    return {
        "points": torch.from_numpy(np.concatenate([s["points"] for s in samples])).float(),
        "owner": torch.repeat_interleave(torch.arange(len(samples)), counts),
        "boxes": [torch.from_numpy(s["boxes"]).float() for s in samples],
        "labels": [torch.from_numpy(s["labels"]) for s in samples],
        "ids": torch.tensor(ids),
        "skipped": skipped,
    }


def labelled_frames(data: LidarSet, count: int) -> list[tuple[int, int]]:
    """`count` evenly spaced annotated frames; 0 takes all of them."""
    every = [
        (sequence, index)
        for sequence, length in enumerate(data.lengths)
        for index in (data.labelled(sequence) if hasattr(data, "labelled") else range(length))
    ]
    if count == 0 or count >= len(every):
        return every
    return [every[i * len(every) // count] for i in range(count)]

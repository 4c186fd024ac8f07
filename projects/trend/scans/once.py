"""ONCE sequences, and Waymo sequences as OpenPCDet converts them (with JSON infos)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.data.lookup import require
from projects.trend.scans.poses import quaternion_pose
from projects.trend.scans.sequences import LidarFrame, read_points

Floats = NDArray[np.floating]
ONCE_SOURCE = "https://once-for-auto-driving.github.io"
WAYMO_SOURCE = "https://waymo.com/open"


@dataclass(frozen=True)
class JsonSequences:
    """Sequences whose poses and boxes are in memory and whose points are read on access.

    Attributes:
        kind: layout of the point files.
        files: point file of each frame.
        poses: (F, 4, 4) of each sequence.
        times: (F,) seconds of each sequence.
        annotations: boxes and names of each frame, possibly none; None for a frame without labels.
    """

    kind: Literal["once", "waymo"]
    files: Sequence[Sequence[Path]]
    poses: Sequence[Floats]
    times: Sequence[Floats]
    annotations: Sequence[Sequence[Mapping[str, Any] | None]]

    @property
    def lengths(self) -> list[int]:
        """See `LidarSet`."""
        return [len(f) for f in self.files]

    def pose(self, sequence: int, index: int) -> Floats:
        """See `LidarSet`."""
        pose: Floats = self.poses[sequence][index]
        return pose

    def time(self, sequence: int, index: int) -> float:
        """See `LidarSet`."""
        return float(self.times[sequence][index])

    def labelled(self, sequence: int) -> list[int]:
        """Frames of a sequence that were annotated, also those in which nothing was found."""
        return [i for i, a in enumerate(self.annotations[sequence]) if a is not None]

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """See `LidarSet`; ONCE's intensities are scaled from 0..255, Waymo's by tanh."""
        path = self.files[sequence][index]
        points = _once_points(path) if self.kind == "once" else _waymo_points(path)
        annotation = self.annotations[sequence][index] or {}
        boxes = np.array(annotation.get("boxes", []), dtype=np.float32)
        boxes = boxes.reshape(-1, boxes.shape[1] if boxes.ndim == 2 else 7)
        boxes = np.pad(boxes, ((0, 0), (0, 9 - boxes.shape[1])))
        names = tuple(annotation.get("names", ()))
        counts = annotation.get("num_points", [-1] * len(names))
        return LidarFrame(
            points,
            self.pose(sequence, index),
            self.time(sequence, index),
            boxes,
            names,
            np.array(counts, dtype=np.int64),
        )


def _once_points(path: Path) -> Floats:
    points = read_points(path, 4).copy()
    points[:, 3] /= 255
    return points


def _waymo_points(path: Path) -> Floats:
    """x, y, z, tanh(intensity), elongation.

    Points of no-label zones (flag other than -1) are out.
    """
    points = np.load(path, allow_pickle=False)
    if points.ndim != 2 or points.shape[1] != 6:
        raise ValueError(f"{path.name}: shape {points.shape} instead of (N, 6)")
    points = points[points[:, 5] == -1][:, :5].astype(np.float32)
    points[:, 3] = np.tanh(points[:, 3])
    return np.asarray(points)


class _Sequence(NamedTuple):
    """One column of `JsonSequences`: files, poses (F, 4, 4), times (F,) and annotations."""

    files: list[Path]
    poses: Floats
    times: Floats
    annotations: list[Mapping[str, Any] | None]


def _listed(
    kind: Literal["once", "waymo"],
    root: Path,
    split: str,
    read: Callable[[str], _Sequence],
    **described: str,
) -> JsonSequences:
    """All sequences that ``ImageSets/<split>.txt`` names.

    Args:
        kind: layout of the point files.
        root: of the data set.
        split: name of the list.
        read: one sequence by its name in the list.
        described: what, layout, source and size of the set, for the error.

    Raises:
        UserError: the list is missing or names no sequence, or a sequence is damaged.
    """
    path = require(root / "ImageSets" / f"{split}.txt", **described)
    sequences = []
    for name in path.read_text(encoding="utf-8").split():
        try:
            sequences.append(read(name))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{described['what']}: the file of sequence {name} below {root} is damaged or of "
                f"another layout ({type(error).__name__}: {error})"
            ) from error
    if not sequences:
        raise UserError(f"{path} names no sequence; write one name per line")
    return JsonSequences(kind, *zip(*sequences, strict=True))


def once(root: Path, split: str) -> JsonSequences:
    """Sequences of a split (train, val, test, raw_small, raw_medium, raw_large).

    Args:
        root: holds ``ImageSets/<split>.txt`` and ``data/<sequence>/{<sequence>.json,lidar_roof}``.
        split: name of the list.

    Raises:
        UserError: a file is missing or damaged.
    """

    def read(name: str) -> _Sequence:
        folder = root / "data" / name
        rows = _json(folder / f"{name}.json")["frames"]
        return _Sequence(
            [folder / "lidar_roof" / f"{row['frame_id']}.bin" for row in rows],
            np.array([_once_pose(row["pose"]) for row in rows]),
            np.array([int(row["frame_id"]) / 1000 for row in rows]),  # milliseconds
            [_once_boxes(row.get("annos")) for row in rows],
        )

    return _listed(
        "once",
        root,
        split,
        read,
        what="ONCE",
        layout="ImageSets/train.txt, data/000076/{000076.json,lidar_roof/*.bin}",
        source=ONCE_SOURCE,
        size="about 2 TB, raw_small 200 GB",
    )


def _once_pose(values: Sequence[float]) -> Floats:
    """Quaternion with the scalar last, then the translation."""
    x, y, z, w = values[:4]
    return quaternion_pose(values[4:], (w, x, y, z))


def _once_boxes(annos: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not annos or "names" not in annos:
        return None
    return {"names": annos["names"], "boxes": annos["boxes_3d"]}


def waymo(root: Path, split: str) -> JsonSequences:
    """Sequences as OpenPCDet converts them, with their infos as JSON.

    A pickle may run code when it is read, so OpenPCDet's ``<segment>.pkl`` is not read; write it
    once as ``frames.json``: a list of ``{"pose": 4 x 4, "timestamp": microseconds, "names": [...],
    "boxes": [[x, y, z, l, w, h, yaw, vx, vy], ...], "num_points": [...]}``.

    Args:
        root: holds ``ImageSets/<split>.txt`` and
            ``waymo_processed_data_v0_5_0/<segment>/{0000.npy, ..., frames.json}``.
        split: name of the list.

    Raises:
        UserError: a file is missing or damaged.
    """

    def read(name: str) -> _Sequence:
        folder = root / "waymo_processed_data_v0_5_0" / name.removesuffix(".tfrecord")
        rows = _json(folder / "frames.json")
        return _Sequence(
            [folder / f"{i:04d}.npy" for i in range(len(rows))],
            np.array([row["pose"] for row in rows], dtype=np.float64),
            np.array([row["timestamp"] / 1e6 for row in rows]),
            [row if row.get("names") is not None else None for row in rows],
        )

    return _listed(
        "waymo",
        root,
        split,
        read,
        what="Waymo",
        layout="ImageSets/train.txt, waymo_processed_data_v0_5_0/<segment>/{0000.npy,frames.json}",
        source=WAYMO_SOURCE,
        size="about 1 TB",
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error

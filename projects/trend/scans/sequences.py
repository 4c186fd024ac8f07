"""LiDAR sequences: what a frame holds, sets of sequences, windows of frames, npz files."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.damage import ERRORS, remedy
from common.data.corrupt import CorruptCounter
from common.data.own_files import readable
from common.files import replacing

log = logging.getLogger(__name__)

Floats = NDArray[np.floating]
MAX_TRIES = 8  # samples that are tried in place of a corrupt one, that one included


def _empty_boxes() -> Floats:
    return np.zeros((0, 9), dtype=np.float32)


@dataclass(frozen=True)
class LidarFrame:
    """One sweep with one origin.

    Attributes:
        points: (N, 3 + d) float32, metres in the sensor's frame, then d features (intensity in
            [0, 1] first).
        pose: (4, 4) float64, sensor to world.
        time: seconds.
        boxes: (K, 9) float32 in the sensor's frame: centre x, y, z, length (along the heading),
            width, height, yaw, velocity x, y (m/s).
        names: (K,) class of each box.
        num_points: (K,) points inside each box, -1 where unknown.
        labels: (N,) int64 semantic class of each point, -1 without one; None: no labels.
        moving: (N,) bool, points on moving objects; None: unknown.
        extra: what a simulator adds for tests.
    """

    points: Floats
    pose: Floats
    time: float
    boxes: Floats = field(default_factory=_empty_boxes)
    names: tuple[str, ...] = ()
    num_points: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    labels: NDArray[np.int64] | None = None
    moving: NDArray[np.bool_] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class LidarSet(Protocol):
    """Sequences of frames that are read one by one."""

    @property
    def lengths(self) -> list[int]:
        """Frames of each sequence."""
        ...

    def pose(self, sequence: int, index: int) -> Floats:
        """Sensor-to-world pose (4, 4) without reading the points."""
        ...

    def time(self, sequence: int, index: int) -> float:
        """Seconds."""
        ...

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """Read one frame.

        Raises:
            ValueError: the file is not what its format says.
        """
        ...


@dataclass(frozen=True)
class FrameLists:
    """A set that is held in memory.

    Attributes:
        sequences: frames of each sequence.
    """

    sequences: Sequence[Sequence[LidarFrame]]

    @property
    def lengths(self) -> list[int]:
        """See `LidarSet`."""
        return [len(frames) for frames in self.sequences]

    def pose(self, sequence: int, index: int) -> Floats:
        """See `LidarSet`."""
        return self.sequences[sequence][index].pose

    def time(self, sequence: int, index: int) -> float:
        """See `LidarSet`."""
        return self.sequences[sequence][index].time

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """See `LidarSet`."""
        return self.sequences[sequence][index]


class Window(NamedTuple):
    """A start frame; its future frames are ``first + k * stride``."""

    source: int
    sequence: int
    first: int
    stride: int


def windows(
    source: int, data: LidarSet, horizon: int, stride: int = 1, step: int = 1
) -> list[Window]:
    """All windows of a set with `horizon` future frames.

    Args:
        source: position of the set in a list of sets; kept in the windows.
        data: the set.
        horizon: future frames, >= 0.
        stride: frames between two used ones, >= 1.
        step: frames between two starts, >= 1.

    Raises:
        UserError: no sequence is long enough.
    """
    spans = [
        Window(source, sequence, first, stride)
        for sequence, length in enumerate(data.lengths)
        for first in range(0, length - horizon * stride, step)
    ]
    if not spans:
        raise UserError(
            f"no sequence has {horizon} future frame(s) {stride} apart (lengths "
            f"{sorted(set(data.lengths))}): lower the horizon or the stride"
        )
    return spans


def first_readable(
    read: Callable[[int], dict[str, Any]], index: int, names: Sequence[Any], counter: CorruptCounter
) -> dict[str, Any]:
    """A sample, or the next one that can be read; damaged ones are counted and logged.

    Args:
        read: sample by its number.
        index: number of the wanted sample.
        names: of all samples, for messages.
        counter: of the damaged ones.

    Raises:
        UserError: `MAX_TRIES` in a row cannot be read, or more than the counter tolerates.
    """
    for shift in range(MAX_TRIES):
        number = (index + shift) % len(names)
        try:
            sample = read(number)
        except (OSError, ValueError) as error:
            counter.bad(str(names[number]), error)
            continue
        counter.good()
        return sample
    raise UserError(f"{counter.what}: {MAX_TRIES} samples from number {index} on cannot be read")


def read_points(path: Path, columns: int) -> Floats:
    """Raw float32 points of a ``.bin`` file.

    Raises:
        ValueError: the size is not a multiple of the columns, or values are not finite.
    """
    values = np.fromfile(path, dtype="<f4")
    if len(values) % columns or not len(values):
        raise ValueError(f"{path.name}: {len(values)} values are no rows of {columns}")
    points: Floats = values.reshape(-1, columns)
    if not np.isfinite(points).all():
        raise ValueError(f"{path.name}: values are not finite")
    return points


def write_npz_sequence(path: Path, frames: Sequence[LidarFrame]) -> None:
    """Write frames as ``points_k``, ``pose_k``, ``time_k``, ``boxes_k`` and ``names_k``."""
    arrays: dict[str, Any] = {}
    for k, frame in enumerate(frames):
        arrays[f"points_{k}"] = frame.points.astype(np.float32)
        arrays[f"pose_{k}"], arrays[f"time_{k}"] = frame.pose, np.float64(frame.time)
        arrays[f"boxes_{k}"] = frame.boxes.astype(np.float32)
        arrays[f"names_{k}"] = np.asarray(frame.names, dtype=np.str_)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_npz_sequences(paths: Sequence[Path]) -> FrameLists:
    """Sequences as `write_npz_sequence` writes them, one file each; damaged ones are left out.

    Raises:
        UserError: too many lack an array or are damaged, see `readable`.
    """
    sequences: list[list[LidarFrame]] = []
    readable(
        paths,
        log.warning,
        what="sequences",
        read=lambda path: sequences.append(_read_sequence(path)),
    )
    return FrameLists(sequences)


def _read_sequence(path: Path) -> list[LidarFrame]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        count = sum(name.startswith("points_") for name in arrays)
        if not count:
            raise ValueError("no array points_0")
        return [_read_frame(arrays, k) for k in range(count)]
    except ERRORS as error:
        raise UserError(
            f"{path} is not a LiDAR sequence (arrays points_k (N, 3 + d), pose_k (4, 4), time_k, "
            f"and optionally boxes_k (K, 9), names_k), or damaged: {error}; {remedy(path)}"
        ) from error


def _read_frame(arrays: Mapping[str, Any], k: int) -> LidarFrame:
    """Frame k of a file's arrays; boxes without velocities (K, 7) stand still.

    Raises:
        ValueError: shapes that do not belong together, or values that are not finite.
    """
    points, pose = arrays[f"points_{k}"].astype(np.float32), arrays[f"pose_{k}"].astype(np.float64)
    boxes = arrays.get(f"boxes_{k}", _empty_boxes())
    names = tuple(str(name) for name in arrays.get(f"names_{k}", ()))
    if boxes.size == 0:
        boxes = _empty_boxes()
    elif boxes.ndim == 2 and boxes.shape[1] == 7:
        boxes = np.pad(boxes, ((0, 0), (0, 2)))
    if points.ndim != 2 or points.shape[1] < 4 or pose.shape != (4, 4):
        shapes = f"points {points.shape}, pose {pose.shape}"
        raise ValueError(f"frame {k}: {shapes} instead of (N, 4 or more), (4, 4)")
    if boxes.ndim != 2 or boxes.shape[1] != 9 or len(names) != len(boxes):
        raise ValueError(f"frame {k}: boxes {boxes.shape} and {len(names)} names")
    if not all(np.isfinite(values).all() for values in (points, pose, boxes)):
        raise ValueError(f"frame {k}: values are not finite")
    if len(points) and (points[:, 3].min() < 0 or points[:, 3].max() > 1):
        low, high = points[:, 3].min(), points[:, 3].max()
        raise ValueError(f"frame {k}: intensities {low:g} to {high:g}; divide them to [0, 1]")
    counts = np.full(len(boxes), -1, dtype=np.int64)
    return LidarFrame(points, pose, float(arrays[f"time_{k}"]), boxes, names, counts)

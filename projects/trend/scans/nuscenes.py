"""nuScenes key frames of LIDAR_TOP with poses and the ten detection classes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.data.lookup import require
from projects.trend.scans.poses import inverse, quaternion_pose, yaw_of
from projects.trend.scans.sequences import LidarFrame, read_points

Floats = NDArray[np.floating]
SOURCE = "https://www.nuscenes.org/nuscenes"
CLASSES = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
_CATEGORIES = {
    "vehicle.car": "car",
    "vehicle.truck": "truck",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.trailer": "trailer",
    "vehicle.construction": "construction_vehicle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.barrier": "barrier",
}
MAX_GAP = 1.5  # seconds between annotations that a velocity is taken from
Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Record:
    """A key frame: its file, pose, time in seconds and annotations."""

    path: Path
    pose: Floats
    time: float
    annotations: tuple[Row, ...]


@dataclass(frozen=True)
class NuScenes:
    """Scenes of key frames (2 Hz).

    Attributes:
        scenes: records of each scene, in time.
        table: annotations by token.
        names: category of each instance.
        times: seconds of each sample.
    """

    scenes: Sequence[Sequence[_Record]]
    table: Mapping[str, Row]
    names: Mapping[str, str]
    times: Mapping[str, float]

    @property
    def lengths(self) -> list[int]:
        """See `LidarSet`."""
        return [len(scene) for scene in self.scenes]

    def pose(self, sequence: int, index: int) -> Floats:
        """See `LidarSet`."""
        return self.scenes[sequence][index].pose

    def time(self, sequence: int, index: int) -> float:
        """See `LidarSet`."""
        return self.scenes[sequence][index].time

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """See `LidarSet`; intensities are scaled from 0..255 to [0, 1]."""
        record = self.scenes[sequence][index]
        points = read_points(record.path, 5)[:, :4].copy()
        points[:, 3] /= 255
        kept = [a for a in record.annotations if self.names[a["instance_token"]] in _CATEGORIES]
        boxes = [self._box(a, record.pose) for a in kept]
        return LidarFrame(
            points,
            record.pose,
            record.time,
            np.array(boxes, dtype=np.float32).reshape(-1, 9),
            tuple(_CATEGORIES[self.names[a["instance_token"]]] for a in kept),
            np.array([a["num_lidar_pts"] for a in kept], dtype=np.int64),
        )

    def _box(self, row: Row, pose: Floats) -> list[float]:
        """x, y, z, l, w, h, yaw, vx, vy in the sensor's frame.

        NaN where the velocity is not known.
        """
        local = inverse(pose) @ quaternion_pose(row["translation"], row["rotation"])
        width, length, height = row["size"]
        velocity = inverse(pose)[:3, :3] @ self._velocity(row)
        return [*local[:3, 3], length, width, height, yaw_of(local), *velocity[:2]]

    def _velocity(self, row: Row) -> Floats:
        """m/s in the world between the neighbouring annotations; NaN where there are none."""
        first = self.table.get(row["prev"], row)
        last = self.table.get(row["next"], row)
        gap = self.times[last["sample_token"]] - self.times[first["sample_token"]]
        limit = MAX_GAP * (2 if row["prev"] and row["next"] else 1)
        if not 0 < gap <= limit:
            return np.full(3, np.nan)
        return np.asarray(np.subtract(last["translation"], first["translation"]) / gap)


def nuscenes(root: Path, version: str = "v1.0-trainval", scenes: Path | None = None) -> NuScenes:
    """Read the tables of a release.

    Args:
        root: holds ``<version>/*.json`` and ``samples/LIDAR_TOP``.
        version: e.g. v1.0-trainval or v1.0-mini.
        scenes: text file with the names of the wanted scenes; None: all.

    Raises:
        UserError: a table is missing or damaged.
    """
    folder = require(
        root / version,
        what="nuScenes",
        layout="v1.0-trainval/*.json, samples/LIDAR_TOP/*.bin",
        source=SOURCE,
        size="about 100 GB of key frames",
    )
    sample, data, pose, calibrated, sensor, scene, annotation, instance, category = (
        _table(folder / f"{name}.json")
        for name in (
            "sample",
            "sample_data",
            "ego_pose",
            "calibrated_sensor",
            "sensor",
            "scene",
            "sample_annotation",
            "instance",
            "category",
        )
    )
    scene_names = None if scenes is None else set(_lines(scenes))
    sweeps = {
        row["sample_token"]: row
        for row in data.values()
        if row["is_key_frame"]
        and sensor[calibrated[row["calibrated_sensor_token"]]["sensor_token"]]["channel"]
        == "LIDAR_TOP"
    }
    by_sample: dict[str, list[Row]] = {}
    for row in annotation.values():
        by_sample.setdefault(row["sample_token"], []).append(row)

    def record(token: str) -> _Record:
        sweep = sweeps[token]
        ego, calibration = (
            pose[sweep["ego_pose_token"]],
            calibrated[sweep["calibrated_sensor_token"]],
        )
        place = quaternion_pose(ego["translation"], ego["rotation"]) @ quaternion_pose(
            calibration["translation"], calibration["rotation"]
        )
        annotations = tuple(by_sample.get(token, ()))
        return _Record(root / sweep["filename"], place, sweep["timestamp"] / 1e6, annotations)

    sequences = []
    for row in scene.values():
        if scene_names is None or row["name"] in scene_names:
            tokens, token = [], row["first_sample_token"]
            while token:
                tokens.append(token)
                token = sample[token]["next"]
            sequences.append([record(t) for t in tokens])
    names = {token: category[row["category_token"]]["name"] for token, row in instance.items()}
    times = {token: row["timestamp"] / 1e6 for token, row in sample.items()}
    return NuScenes(sequences, annotation, names, times)


def _table(path: Path) -> dict[str, Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {row["token"]: row for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a nuScenes table: {error}") from error


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: one scene name per line, the official split of the "
            f"development kit ({SOURCE})"
        )
    return path.read_text(encoding="utf-8").split()

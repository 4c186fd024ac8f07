"""KITTI scans with poses: raw drives, SemanticKITTI sequences, and the bundled packed clip."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.config import UserError
from common.damage import reading
from common.data.lookup import require
from projects.trend.scans.poses import euler_rotation, inverse
from projects.trend.scans.sequences import FrameLists, LidarFrame, read_points

Floats = NDArray[np.floating]
EARTH_RADIUS = 6378137.0  # metres, as in KITTI's development kit
RAW_SOURCE = "https://www.cvlibs.net/datasets/kitti/raw_data.php"
SEMANTIC_SOURCE = "https://semantic-kitti.org"
SEMANTIC_CLASSES = (
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "bicyclist",
    "motorcyclist",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "trunk",
    "terrain",
    "pole",
    "traffic-sign",
)
# raw label -> training class; moving classes (252 up) count as their static ones
_SEMANTIC = {
    10: 0, 252: 0, 11: 1, 15: 2, 18: 3, 258: 3, 13: 4, 16: 4, 20: 4, 256: 4, 257: 4, 259: 4,
    30: 5, 254: 5, 31: 6, 253: 6, 32: 7, 255: 7, 40: 8, 60: 8, 44: 9, 48: 10, 49: 11, 50: 12,
    51: 13, 70: 14, 71: 15, 72: 16, 80: 17, 81: 18,
}  # fmt: skip
FIRST_MOVING = 252


@dataclass(frozen=True)
class ScanFiles:
    """Sequences of scan files with known poses and times.

    Attributes:
        scans: files of each sequence.
        poses: (F, 4, 4) of each sequence.
        times: (F,) seconds.
        labels: label files alongside the scans; None: no labels.
    """

    scans: Sequence[Sequence[Path]]
    poses: Sequence[Floats]
    times: Sequence[Floats]
    labels: Sequence[Sequence[Path]] | None = None

    @property
    def lengths(self) -> list[int]:
        """See `LidarSet`."""
        return [len(files) for files in self.scans]

    def pose(self, sequence: int, index: int) -> Floats:
        """See `LidarSet`."""
        pose: Floats = self.poses[sequence][index]
        return pose

    def time(self, sequence: int, index: int) -> float:
        """See `LidarSet`."""
        return float(self.times[sequence][index])

    def frame(self, sequence: int, index: int) -> LidarFrame:
        """See `LidarSet`."""
        points = read_points(self.scans[sequence][index], 4)
        labels = moving = None
        if self.labels is not None:
            raw = np.fromfile(self.labels[sequence][index], dtype="<u4") & 0xFFFF
            if len(raw) != len(points):
                raise ValueError(f"{self.labels[sequence][index]}: not one label for each point")
            labels, moving = semantic_classes(raw), raw >= FIRST_MOVING
        return LidarFrame(
            points,
            self.pose(sequence, index),
            self.time(sequence, index),
            labels=labels,
            moving=moving,
        )


def semantic_classes(raw: NDArray[np.integer]) -> NDArray[np.int64]:
    """SemanticKITTI's 19 training classes of raw labels; -1 is ignored."""
    table = np.full(65536, -1, dtype=np.int64)
    table[list(_SEMANTIC)] = list(_SEMANTIC.values())
    return np.asarray(table[raw])


def kitti_raw(root: Path, drives: Sequence[str] | None = None) -> ScanFiles:
    """Drives in the layout of KITTI raw (synchronised).

    Args:
        root: holds ``<date>/calib_imu_to_velo.txt`` and
            ``<date>/<date>_drive_<number>_sync/{velodyne_points,oxts}``.
        drives: names of drive folders; None: all.

    Raises:
        UserError: nothing there, a file is missing, or a drive has no scans.
    """
    require(
        root,
        what="KITTI raw",
        layout="<date>/<date>_drive_0005_sync/{velodyne_points,oxts}",
        source=RAW_SOURCE,
        size="180 GB for all drives",
    )
    folders = sorted(p for p in root.glob("*/*_sync") if drives is None or p.name in drives)
    if not folders:
        raise UserError(f"{root} has no <date>/<date>_drive_<number>_sync folder ({RAW_SOURCE})")
    scans, poses, times = [], [], []
    for folder in folders:
        files = _scans(folder / "velodyne_points/data", RAW_SOURCE)
        lines = [_numbers(folder / "oxts/data" / f"{file.stem}.txt") for file in files]
        calibration = folder.parent / "calib_imu_to_velo.txt"
        scans.append(files)
        poses.append(oxts_poses(np.array(lines), _calibration(calibration)))
        times.append(_timestamps(folder / "velodyne_points/timestamps.txt", files))
    return ScanFiles(scans, poses, times)


def oxts_poses(packets: Floats, imu_to_velo: Floats) -> Floats:
    """Sensor poses (F, 4, 4) of GPS/IMU packets (F, 30), Mercator-projected as KITTI does."""
    lat, lon, alt = packets[:, 0], packets[:, 1], packets[:, 2]
    scale = np.cos(np.deg2rad(lat[0]))
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, 0, 3] = scale * EARTH_RADIUS * np.deg2rad(lon)
    poses[:, 1, 3] = scale * EARTH_RADIUS * np.log(np.tan(np.pi * (90 + lat) / 360))
    poses[:, 2, 3] = alt
    for pose, (roll, pitch, yaw) in zip(poses, packets[:, 3:6], strict=True):
        pose[:3, :3] = euler_rotation(roll, pitch, yaw)
    sensor: Floats = poses @ inverse(imu_to_velo)
    return sensor


def semantic_kitti(root: Path, sequences: Sequence[str]) -> ScanFiles:
    """Labelled sequences in the layout of SemanticKITTI (KITTI odometry).

    Scan 000007 has the poses and times of line 8, also where scans are left out.

    Args:
        root: holds ``sequences/<number>/{velodyne,labels,poses.txt,calib.txt,times.txt}``.
        sequences: numbers such as "00".

    Raises:
        UserError: a file is missing or too short for the scans, or a sequence has no scans.
    """
    scans, labels, poses, times = [], [], [], []
    for name in sequences:
        folder = require(
            root / "sequences" / name,
            what="SemanticKITTI",
            layout="sequences/00/{velodyne,labels,poses.txt,calib.txt,times.txt}",
            source=SEMANTIC_SOURCE,
            size="80 GB",
        )
        files = _scans(folder / "velodyne", SEMANTIC_SOURCE)
        numbers = _numbers_of(files)
        camera = np.array([_matrix(row) for row in _rows_at(folder / "poses.txt", numbers)])
        to_camera = _matrix(_rows(folder / "calib.txt", "Tr")[0])
        scans.append(files)
        labels.append([folder / "labels" / f"{file.stem}.label" for file in files])
        poses.append(inverse(to_camera) @ camera @ to_camera)
        times.append(np.array([row[0] for row in _rows_at(folder / "times.txt", numbers)]))
    return ScanFiles(scans, poses, times, labels)


def packed_clip(path: Path, start: int = 0, stop: int | None = None) -> FrameLists:
    """One drive packed as int16 centimetres: ``xyz_cm``, ``intensity``, ``offsets``, ``poses_est``.

    Args:
        path: the npz file; ``interval`` (seconds between scans) is 0.1 where it is missing.
        start: first scan.
        stop: scan after the last one.

    Raises:
        UserError: not such a file.
    """
    with (
        reading(path, "packed LiDAR drive"),
        np.load(path, allow_pickle=False) as file,
    ):
        xyz, intensity, offsets = file["xyz_cm"], file["intensity"], file["offsets"]
        poses = file["poses_est"].astype(np.float64)
        interval = float(file["interval"]) if "interval" in file.files else 0.1
    frames = []
    for i in range(start, min(len(poses), stop or len(poses))):
        rows = slice(offsets[i], offsets[i + 1])
        points = np.c_[xyz[rows] / 100.0, intensity[rows] / 255.0].astype(np.float32)
        frames.append(LidarFrame(points, poses[i], i * interval))
    return FrameLists([frames])


def _numbers(path: Path) -> list[float]:
    if not path.is_file():
        raise UserError(f"{path} is missing: KITTI raw needs the synchronised GPS/IMU packets")
    return [float(word) for word in path.read_text(encoding="ascii").split()]


def _rows(path: Path, key: str | None = None) -> list[list[float]]:
    """Lines of numbers; of a keyed file those of one key."""
    if not path.is_file():
        raise UserError(f"{path} is missing")
    lines = path.read_text(encoding="ascii").splitlines()
    if key is not None:
        lines = [line.split(":", 1)[1] for line in lines if line.split(":", 1)[0] == key]
        if not lines:
            raise UserError(f"{path} has no line '{key}:'")
    return [[float(word) for word in line.split()] for line in lines if line.strip()]


def _rows_at(path: Path, numbers: Sequence[int]) -> list[list[float]]:
    """Rows of a table that has one for each scan, those of the scans that are there."""
    rows = _rows(path)
    if (last := max(numbers)) >= len(rows):
        raise UserError(f"{path} has {len(rows)} lines, none for scan {last}: get it again")
    return [rows[number] for number in numbers]


def _scans(folder: Path, source: str) -> list[Path]:
    """Scan files of a folder in the order of their names."""
    files = sorted(folder.glob("*.bin"))
    if not files:
        raise UserError(f"{folder} has no scans (*.bin): get them from {source}")
    return files


def _numbers_of(scans: Sequence[Path]) -> list[int]:
    try:
        return [int(scan.stem) for scan in scans]
    except ValueError as error:
        folder = scans[0].parent
        raise UserError(f"{folder}: scans are named by their numbers ({error})") from None


def _matrix(row: Sequence[float]) -> Floats:
    return np.vstack([np.reshape(row, (3, 4)), [0, 0, 0, 1]])


def _calibration(path: Path) -> Floats:
    rotation, shift = _rows(path, "R")[0], _rows(path, "T")[0]
    return _matrix(np.c_[np.reshape(rotation, (3, 3)), shift].ravel().tolist())


def _timestamps(path: Path, scans: Sequence[Path]) -> Floats:
    """Seconds of scans by their numbers: some drives lack scans in between, but not their lines."""
    numbers = _numbers_of(scans)
    if not path.is_file():
        return 0.1 * np.array(numbers, dtype=np.float64)
    lines = path.read_text(encoding="ascii").splitlines()
    for scan, number in zip(scans, numbers, strict=True):
        if number >= len(lines) or not lines[number].strip():
            raise UserError(f"{path} has no line {number + 1} for {scan.name}: get it again")
    stamps = [lines[number].strip()[:26] for number in numbers]
    return np.array([datetime.datetime.fromisoformat(stamp).timestamp() for stamp in stamps])

"""Times of KITTI's scans where a drive lacks some of them."""

import numpy as np
import pytest

from common.config import UserError
from projects.trend.scans.kitti import kitti_raw, semantic_kitti


def test_kitti_scans_have_the_times_of_their_numbers(tmp_path):
    """Drive 0009 lacks four scans, whose lines are there: the later ones were given earlier
    times."""
    drive = tmp_path / "2011_09_26/2011_09_26_drive_0009_sync"
    for part in ("velodyne_points/data", "oxts/data"):
        (drive / part).mkdir(parents=True)
    for i in (0, 1, 3):
        np.zeros(4, np.float32).tofile(drive / f"velodyne_points/data/{i:010d}.bin")
        (drive / f"oxts/data/{i:010d}.txt").write_text(" ".join(["49.0", "8.0", *["0.0"] * 28]))
    (drive.parent / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: 0 0 0\n")
    assert kitti_raw(tmp_path).time(0, 2) == pytest.approx(0.3)
    stamps = drive / "velodyne_points/timestamps.txt"
    lines = [f"2011-09-26 13:02:4{i}.000000000" for i in range(4)]
    for lacking in (lines, [*lines[:2], "", lines[3]]):
        stamps.write_text("\n".join(lacking) + "\n")
        data = kitti_raw(tmp_path)
        assert [data.time(0, i) - data.time(0, 0) for i in range(3)] == [0, 1, 3]
    for lacking in (lines[:3], [lines[0], "", *lines[2:]]):
        stamps.write_text("\n".join(lacking) + "\n")
        with pytest.raises(UserError, match=r"has no line \d for 000000000\d\.bin"):
            kitti_raw(tmp_path)


def semantic_sequence(root, numbers):
    """A drive of one metre a scan along the camera's z, whose axes are those of KITTI."""
    folder = root / "sequences/00"
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True)
    for i in numbers:
        np.zeros(4, np.float32).tofile(folder / f"velodyne/{i:06d}.bin")
        np.zeros(1, np.uint32).tofile(folder / f"labels/{i:06d}.label")
    (folder / "calib.txt").write_text("Tr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n")
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {i}\n" for i in range(5)))
    (folder / "times.txt").write_text("".join(f"{0.1 * i}\n" for i in range(5)))
    return folder


def test_semantic_kitti_scans_have_the_poses_and_times_of_their_numbers(tmp_path):
    """Where scans 1 and 3 are left out, the later ones were given the poses of earlier ones."""
    folder = semantic_sequence(tmp_path, (0, 2, 4))
    data = semantic_kitti(tmp_path, ["00"])
    assert [data.time(0, i) for i in range(3)] == pytest.approx([0, 0.2, 0.4])
    assert [data.pose(0, i)[0, 3] for i in range(3)] == pytest.approx([0, 2, 4])
    for table in ("times", "poses"):
        text = (folder / f"{table}.txt").read_text()
        (folder / f"{table}.txt").write_text("".join(text.splitlines(keepends=True)[:4]))
        with pytest.raises(UserError, match=rf"{table}\.txt has 4 lines, none for scan 4"):
            semantic_kitti(tmp_path, ["00"])
        (folder / f"{table}.txt").write_text(text)


def test_sequences_without_scans_are_named(tmp_path):
    semantic_sequence(tmp_path, ())
    with pytest.raises(UserError, match=r"velodyne has no scans .*semantic-kitti"):
        semantic_kitti(tmp_path, ["00"])
    (tmp_path / "2011_09_26/2011_09_26_drive_0009_sync").mkdir(parents=True)
    with pytest.raises(UserError, match=r"drive_0009_sync/velodyne_points/data has no scans"):
        kitti_raw(tmp_path)

"""Times of KITTI's scans where a drive lacks some of them."""

import numpy as np
import pytest

from common.config import UserError
from common.data.lidar.kitti import kitti_raw


def test_kitti_scans_have_the_times_of_their_numbers(tmp_path):
    """Drive 0009 lacks four scans, whose lines are there: the later ones were given earlier times."""
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

"""LiDAR data: poses, rays, augmentation, the simulator (item 18), readers of official layouts."""

import json
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest

from common.config import UserError
from projects.trend.scans.augment import PlanarSimilarity, draw_similarity
from projects.trend.scans.kitti import kitti_raw, packed_clip, semantic_classes, semantic_kitti
from projects.trend.scans.nuscenes import nuscenes
from projects.trend.scans.once import once, waymo
from projects.trend.scans.options import PlanarAugment
from projects.trend.scans.poses import (
    inverse,
    planar_action,
    planar_pose,
    relative,
    transform,
    yaw_of,
)
from projects.trend.scans.ray_casting import Solids, cast, grid_directions
from projects.trend.scans.rays import above_ground, block_mask, choose
from projects.trend.scans.sequences import (
    FrameLists,
    LidarFrame,
    read_npz_sequences,
    windows,
    write_npz_sequence,
)
from projects.trend.scans.simulator import CLASSES, Simulator, arc, street


def rng(seed=0):
    return np.random.default_rng(seed)


def compose_actions(actions):
    """Pose after a series of planar actions, each in the frame that the former ones lead to."""
    return reduce(np.matmul, [planar_pose(*action) for action in actions], np.eye(4))


# -- poses ---------------------------------------------------------------------------------------


def test_actions_are_relative_to_their_own_frame_and_compose():
    """The order matters: turn then drive is not drive then turn."""
    poses = [planar_pose(*rng(i).normal(size=2), rng(i + 9).normal(), z=1.0) for i in range(4)]
    actions = [planar_action(a, b) for a, b in pairwise(poses)]
    whole = relative(poses[0], poses[-1])
    np.testing.assert_allclose(compose_actions(actions), whole, atol=1e-12)
    assert not np.allclose(compose_actions(actions[::-1]), whole)
    points = rng().normal(size=(5, 4))
    np.testing.assert_allclose(transform(inverse(poses[1]), transform(poses[1], points)), points)


# -- the simulator -------------------------------------------------------------------------------


def slow_range(origin, direction, solids):
    """Nearest hit by stepping through every solid in its own axes."""
    best = -origin[2] / direction[2] if direction[2] < 0 else np.inf
    for centre, half, yaw, is_round in zip(*solids, strict=True):
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        o, d = turn @ (origin - centre), turn @ direction
        spans = [(-half[i] - o[i], half[i] - o[i], d[i]) for i in ((2,) if is_round else (0, 1, 2))]
        low, high = -np.inf, np.inf
        for a, b, rate in spans:
            t = sorted((a / rate, b / rate))
            low, high = max(low, t[0]), min(high, t[1])
        if is_round:
            a, b = d[:2] @ d[:2], o[:2] @ d[:2]
            root = b * b - a * (o[:2] @ o[:2] - half[0] ** 2)
            if root <= 0:
                continue
            low = max(low, (-b - root**0.5) / a)
            high = min(high, (-b + root**0.5) / a)
        if 0 < low <= high:
            best = min(best, low)
    return best


def test_item_18_ranges_equal_analytic_distances():
    """Every ray of a street against a plain loop over the solids, and hand-made cases."""
    world = street(rng(3))
    solids = world.at(0.7)
    origin = np.array([0.5, -0.3, 1.8])
    elevations, azimuths = np.deg2rad([-15.0, -4.0, -0.7, 3.0]), np.linspace(-3, 3, 41)
    hits = cast(origin, elevations, azimuths, solids)
    directions = grid_directions(elevations, azimuths)
    expected = np.array([[slow_range(origin, d, solids) for d in row] for row in directions])
    assert np.isinf(hits.ranges).tolist() == np.isinf(expected).tolist()
    known = np.isfinite(expected)
    np.testing.assert_allclose(hits.ranges[known], expected[known], rtol=2e-4)
    wall = Solids(np.array([[10.0, 0, 2]]), np.array([[1.0, 5, 2]]), np.zeros(1), np.zeros(1, bool))
    seen = cast(np.array([0, 0, 2.0]), np.zeros(1), np.array([0.0, np.pi]), wall)
    assert seen.ranges[0, 0] == pytest.approx(9.0)
    assert seen.solid.tolist() == [[0, -2]]
    assert seen.normals[0, 0].tolist() == [-1, 0, 0]
    down = cast(np.array([0, 0, 2.0]), np.array([-np.pi / 6]), np.array([np.pi]), wall)
    assert down.ranges[0, 0] == pytest.approx(4.0)
    assert down.solid[0, 0] == -1


def test_item_18_occlusion_casts_shadows():
    """Nothing behind a wall is hit, and it is hit once the wall is gone."""
    centre = np.array([[5.0, 0, 1], [9.0, 0, 1]])
    half = np.array([[0.5, 2, 3], [0.5, 1, 1]])
    both = Solids(centre, half, np.zeros(2), np.zeros(2, bool))
    alone = Solids(centre[1:], half[1:], np.zeros(1), np.zeros(1, bool))
    beam = np.array([0, 0, 1.8]), np.deg2rad([-3.0]), np.linspace(-0.08, 0.08, 9)
    assert set(cast(*beam, both).solid.ravel()) == {0}
    assert set(cast(*beam, alone).solid.ravel()) == {0}
    assert cast(*beam, alone).ranges.min() > cast(*beam, both).ranges.max()


@pytest.fixture(scope="module")
def drives():
    return Simulator(num_frames=3, elevations=16, azimuths=180).sequences(3, 5)


def test_item_18_the_simulator_is_deterministic(drives):
    again = Simulator(num_frames=3, elevations=16, azimuths=180).sequences(2, 5, first=1)
    for a, b in zip(drives.sequences[1], again.sequences[0], strict=True):
        np.testing.assert_array_equal(a.points, b.points)
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert len(drives.sequences[0][0].points) != len(drives.sequences[1][0].points)


def test_item_18_static_points_coincide_after_the_pose(drives):
    """Walls seen at two times lie on the same planes: within three standard deviations of noise."""
    for frames in drives.sequences:
        gaps = []
        for frame in frames:
            wall = frame.labels == CLASSES.index("building")
            own = frame.extra["solid"][wall]
            normals = frame.extra["normals"][wall] @ frame.pose[:3, :3].T.astype(np.float32)
            world = transform(frame.pose, frame.points[wall].astype(np.float64))
            gaps.append(
                {
                    (int(i), tuple(np.round(n, 2))): float(w[:3] @ n)
                    for i, n, w in zip(own, normals, world, strict=True)
                }
            )
        common = gaps[0].keys() & gaps[1].keys()
        assert common
        assert np.median([abs(gaps[0][k] - gaps[1][k]) for k in common]) < 3 * 0.02


def test_item_18_cars_move_by_their_velocity_and_counts_are_right(drives):
    frames = drives.sequences[0]
    for before, after in pairwise(frames):
        time = after.time - before.time
        here = transform(before.pose, before.boxes[:, :3].astype(np.float64))
        there = transform(after.pose, after.boxes[:, :3].astype(np.float64))
        speed = np.linalg.norm(before.boxes[:, 7:9], axis=1)
        moved = np.linalg.norm(there - here, axis=1)
        np.testing.assert_allclose(moved, speed * time, atol=0.02)
        assert (
            before.num_points.sum()
            == (before.extra["solid"] >= 0).sum()
            - ((before.labels == 1) | (before.labels == 2)).sum()
        )
    x, y, yaw = arc(np.zeros(3), np.array(2.0), np.array(np.pi / 2), np.array(1.0))
    assert [float(v) for v in (x, y, yaw)] == pytest.approx([4 / np.pi, 4 / np.pi, np.pi / 2])


def test_actors_stand_clear_at_the_start():
    for seed in range(20):
        world = street(rng(seed))
        assert 20 <= len(world.classes) <= 60
        radius = np.linalg.norm(world.size[:, :2], axis=1) / 2
        actors = world.classes >= 3
        lateral = world.start[:, 1]
        reach = world.size[:, 1] / 2
        for side in (-1, 1):
            mine = actors & (side * lateral > 0)
            still = ~actors & (side * lateral > 0)
            if mine.any() and still.any():
                outer = (side * lateral + reach)[mine].max()
                assert outer < (side * lateral - reach)[still].min() + 1e-9
        gap = np.linalg.norm(world.start[actors, None, :2] - world.start[None, actors, :2], axis=-1)
        np.fill_diagonal(gap, np.inf)
        assert gap.min() > 0.6
        assert radius.min() > 0


# -- rays and augmentation -----------------------------------------------------------------------


def test_item_10_ground_filter_and_choice():
    """Item 10: returns below the threshold are no rays; the choice is uniform or spread out."""
    points = np.c_[rng().uniform(-5, 5, (400, 2)), rng(1).uniform(-1.8, 1, 400)]
    high = above_ground(points, 1.8, 0.3)
    assert high.any()
    assert points[high, 2].min() > -1.5 > points[~high, 2].max() - 1e-9
    rows = choose(points, 100, rng())
    assert len(set(rows.tolist())) == 100
    assert not np.array_equal(rows, choose(points, 100, rng(1)))
    assert set(range(400)) == set(choose(points, 500, rng()).tolist())
    with pytest.raises(ValueError, match="no return"):
        choose(points[:0], 3, rng())
    dense = np.r_[0.01 * rng().normal(size=(900, 3)), rng().uniform(3, 9, (100, 3))]
    spread_out = (choose(dense, 80, rng(), "spread") >= 900).mean()
    assert spread_out > 3 * (choose(dense, 80, rng(), "uniform") >= 900).mean()
    assert len(set(choose(dense, 80, rng(), "spread").tolist())) == 80


def test_item_11_mask_hides_whole_blocks_at_the_rate():
    points = rng().uniform(0, 16, (5000, 3))
    kept = block_mask(points, np.zeros(3), np.ones(3), 4, 0.75, rng())
    blocks = (points // 4).astype(int) @ [100, 10, 1]
    assert not set(blocks[kept]) & set(blocks[~kept])
    assert len(set(blocks[kept])) == 16
    assert block_mask(points, np.zeros(3), np.ones(3), 4, 0.0, rng()).all()


@pytest.mark.parametrize("seed", range(4))
def test_item_13_augmentation_is_consistent(seed):
    """Item 13: moved points, poses and actions describe one and the same moved drive."""
    change = draw_similarity(rng(seed), PlanarAugment(45, (0.95, 1.05), 0.5, 0.5))
    poses = [planar_pose(2.0 * i, 0.3 * i * i, 0.1 * i) for i in range(4)]
    local = rng(seed).normal(size=(6, 3))
    for pose in poses[1:]:
        step = relative(poses[0], pose)
        moved = change.pose(step)
        np.testing.assert_allclose(
            transform(moved, change.points(local)), change.points(transform(step, local)), atol=1e-9
        )
        assert np.linalg.det(moved[:3, :3]) == pytest.approx(1)
    actions = np.array([planar_action(a, b) for a, b in pairwise(poses)])
    changed = change.actions(actions)
    final = change.pose(relative(poses[0], poses[-1]))
    np.testing.assert_allclose(compose_actions(changed), final, atol=1e-9)
    boxes = np.array([[1.0, 2, 0, 4, 2, 1.5, 0.3, 3 * np.cos(0.3), 3 * np.sin(0.3)]])
    out = change.boxes(boxes)
    assert np.arctan2(out[0, 8], out[0, 7]) == pytest.approx(out[0, 6])
    np.testing.assert_allclose(out[:, 3:6], change.scale * boxes[:, 3:6])


def test_flip_changes_the_sign_of_lateral_translation_and_yaw():
    flipped = PlanarSimilarity(flip_y=True).actions(np.array([[1.0, 0.5, 0.2]]))
    assert flipped.tolist() == [[1.0, -0.5, -0.2]]
    stretched = PlanarSimilarity(scale=2.0).actions(np.array([[1.0, 0.5, 0.2]]))
    assert stretched.tolist() == [[2.0, 1.0, 0.2]]


# -- files ---------------------------------------------------------------------------------------


def scan(count=20, columns=4, seed=0):
    points = rng(seed).normal(size=(count, columns)).astype("<f4")
    points[:, 3:] = np.abs(points[:, 3:]) % 1  # intensities
    return points


def test_windows_and_npz_sequences(tmp_path):
    frames = [LidarFrame(scan(5 + i), planar_pose(i, 0, 0), 0.5 * i) for i in range(5)]
    write_npz_sequence(tmp_path / "a.npz", frames)
    data = read_npz_sequences([tmp_path / "a.npz"])
    assert data.lengths == [5]
    np.testing.assert_array_equal(data.frame(0, 3).points, frames[3].points)
    assert data.time(0, 4) == 2.0
    assert [w.first for w in windows(0, data, 2)] == [0, 1, 2]
    assert [w.first for w in windows(0, data, 1, stride=2, step=2)] == [0, 2]
    with pytest.raises(UserError, match="lower the horizon"):
        windows(0, FrameLists([frames[:2]]), 2)
    np.savez(tmp_path / "b.npz", points_0=scan())
    with pytest.raises(UserError, match="not a LiDAR sequence"):
        read_npz_sequences([tmp_path / "b.npz"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boxes_0": np.ones((2, 9))}, "and 0 names"),
        ({"boxes_0": np.ones((1, 5)), "names_0": np.array(["car"])}, "boxes"),
        ({"points_0": np.ones((3, 3))}, "instead of"),
        ({"points_0": np.full((3, 4), np.nan)}, "not finite"),
        ({"points_0": np.full((3, 4), 255.0)}, "intensities 255 to 255"),
        ({"pose_0": np.eye(4)[:3]}, "instead of"),
    ],
)
def test_odd_npz_sequences_are_refused_when_they_are_read(tmp_path, change, said):
    whole = {"points_0": scan(), "pose_0": np.eye(4), "time_0": 0.0}
    np.savez(tmp_path / "a.npz", **{**whole, **change})
    with pytest.raises(UserError, match=said):
        read_npz_sequences([tmp_path / "a.npz"])


def test_npz_boxes_without_velocities_and_files_without_frames(tmp_path):
    boxes, names = np.arange(14.0).reshape(2, 7), np.array(["car", "bus"])
    np.savez(
        tmp_path / "a.npz",
        points_0=scan(),
        pose_0=np.eye(4),
        time_0=0.0,
        boxes_0=boxes,
        names_0=names,
    )
    frame = read_npz_sequences([tmp_path / "a.npz"]).frame(0, 0)
    np.testing.assert_array_equal(frame.boxes, np.pad(boxes, ((0, 0), (0, 2))))
    np.savez(tmp_path / "b.npz", other=scan())
    with pytest.raises(UserError, match="no array points_0"):
        read_npz_sequences([tmp_path / "b.npz"])


def test_kitti_raw_layout(tmp_path):
    """Poses of the packets: one degree of longitude, then a turn; calibration is applied."""
    drive = tmp_path / "2011_09_26/2011_09_26_drive_0005_sync"
    for part in ("velodyne_points/data", "oxts/data"):
        (drive / part).mkdir(parents=True)
    for i in range(2):
        scan(seed=i).tofile(drive / f"velodyne_points/data/{i:010d}.bin")
        packet = [49.0, 8.0 + 1e-5 * i, 110.0, 0, 0, 0.5 * i, *[0.0] * 24]
        (drive / f"oxts/data/{i:010d}.txt").write_text(" ".join(map(str, packet)))
    stamps = "2011-09-26 13:02:44.328092611\n2011-09-26 13:02:44.428092611\n"
    (drive / "velodyne_points/timestamps.txt").write_text(stamps)
    with pytest.raises(UserError, match="calib_imu_to_velo"):
        kitti_raw(tmp_path)
    calibration = "R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n"
    (drive.parent / "calib_imu_to_velo.txt").write_text(calibration)
    data = kitti_raw(tmp_path)
    assert data.lengths == [2]
    assert data.time(0, 1) - data.time(0, 0) == pytest.approx(0.1)
    imu = [
        data.pose(0, i) @ np.vstack([np.c_[np.eye(3), [-0.8, 0.3, -0.8]], [0, 0, 0, 1]])
        for i in range(2)
    ]
    step = relative(imu[0], imu[1])
    east = np.cos(np.deg2rad(49)) * 6378137 * np.deg2rad(1e-5)
    np.testing.assert_allclose(step[:3, 3], [east, 0, 0], atol=1e-6)
    assert yaw_of(step) == pytest.approx(0.5)
    np.testing.assert_array_equal(data.frame(0, 1).points, scan(seed=1))
    (drive / "velodyne_points/data/0000000001.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="no rows of 4"):
        data.frame(0, 1)
    with pytest.raises(UserError, match="raw_data"):
        kitti_raw(tmp_path / "missing")


def test_semantic_kitti_layout(tmp_path):
    folder = tmp_path / "sequences/00"
    for part in ("velodyne", "labels"):
        (folder / part).mkdir(parents=True)
    scan(3).tofile(folder / "velodyne/000000.bin")
    np.array([10, 252 | (7 << 16), 0], dtype="<u4").tofile(folder / "labels/000000.label")
    (folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 2\n")
    (folder / "calib.txt").write_text("P0: 1\nTr: 0 -1 0 0 0 0 -1 0 1 0 0 0\n")
    (folder / "times.txt").write_text("0.0\n")
    frame = semantic_kitti(tmp_path, ["00"]).frame(0, 0)
    assert frame.labels.tolist() == [0, 0, -1]
    assert frame.moving.tolist() == [False, True, False]
    np.testing.assert_allclose(frame.pose[:3, 3], [2, 0, 0])  # camera z is the sensor's x
    assert semantic_classes(np.array([40, 60, 81])).tolist() == [8, 8, 18]


def test_packed_clip(tmp_path):
    path = tmp_path / "clip.npz"
    np.savez(
        path,
        xyz_cm=np.array([[100, -250, 30], [1, 2, 3]], np.int16),
        intensity=np.array([255, 0], np.uint8),
        offsets=np.array([0, 1, 2]),
        poses_est=np.stack([planar_pose(0, 0, 0), planar_pose(0.3, 0, 0)]).astype(np.float32),
    )
    data = packed_clip(path)
    assert data.frame(0, 0).points.tolist() == [[1.0, -2.5, pytest.approx(0.3), 1.0]]
    assert data.time(0, 1) == pytest.approx(0.1)
    assert packed_clip(path, 1).lengths == [1]
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="not a packed LiDAR drive"):
        packed_clip(path)


def test_nuscenes_layout(tmp_path):
    """Two samples of a scene: pose of the sensor, box in its frame, velocity, class, intensity."""
    (tmp_path / "v1.0-mini").mkdir()
    (tmp_path / "samples/LIDAR_TOP").mkdir(parents=True)
    points = np.array([[1, 2, 3, 51, 0]], "<f4")
    points.tofile(tmp_path / "samples/LIDAR_TOP/0.pcd.bin")
    points.tofile(tmp_path / "samples/LIDAR_TOP/1.pcd.bin")
    quarter = [np.cos(np.pi / 4), 0, 0, np.sin(np.pi / 4)]
    tables = {
        "scene": [{"token": "s", "name": "scene-0001", "first_sample_token": "a0"}],
        "sample": [
            {"token": "a0", "next": "a1", "timestamp": 0},
            {"token": "a1", "next": "", "timestamp": 500000},
        ],
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}, {"token": "c", "channel": "CAM"}],
        "calibrated_sensor": [
            {
                "token": "kl",
                "sensor_token": "l",
                "translation": [1, 0, 2],
                "rotation": [1, 0, 0, 0],
            },
            {
                "token": "kc",
                "sensor_token": "c",
                "translation": [0, 0, 0],
                "rotation": [1, 0, 0, 0],
            },
        ],
        "ego_pose": [{"token": "e", "translation": [10, 0, 0], "rotation": quarter}],
        "sample_data": [
            {
                "token": f"d{i}{k}",
                "sample_token": f"a{i}",
                "ego_pose_token": "e",
                "is_key_frame": True,
                "calibrated_sensor_token": k,
                "timestamp": 500000 * i,
                "filename": f"samples/LIDAR_TOP/{i}.pcd.bin",
            }
            for i in range(2)
            for k in ("kl", "kc")
        ],
        "sample_annotation": [
            {
                "token": f"b{i}",
                "sample_token": f"a{i}",
                "instance_token": "i",
                "size": [2, 4, 1.5],
                "translation": [10, 5 + i, 2],
                "rotation": quarter,
                "prev": "" if i == 0 else "b0",
                "next": "b1" if i == 0 else "",
                "num_lidar_pts": 3,
            }
            for i in range(2)
        ]
        + [
            {
                "token": "c",
                "sample_token": "a0",
                "instance_token": "i",
                "size": [2, 4, 1.5],
                "translation": [10, 9, 2],
                "rotation": quarter,
                "prev": "",
                "next": "",
                "num_lidar_pts": 3,
            }
        ],
        "instance": [{"token": "i", "category_token": "k"}],
        "category": [{"token": "k", "name": "vehicle.car"}],
    }
    for name, rows in tables.items():
        (tmp_path / f"v1.0-mini/{name}.json").write_text(json.dumps(rows))
    data = nuscenes(tmp_path, "v1.0-mini")
    assert data.lengths == [2]
    frame = data.frame(0, 1)
    np.testing.assert_allclose(frame.pose[:3, 3], [10, 1, 2], atol=1e-9)
    np.testing.assert_allclose(frame.boxes[0], [5, 0, 0, 4, 2, 1.5, 0, 2, 0], atol=1e-6)
    assert frame.names == ("car",)
    assert frame.num_points.tolist() == [3]
    assert frame.points[0].tolist() == [1, 2, 3, pytest.approx(0.2)]
    assert np.isfinite(data.frame(0, 0).boxes).all(1).tolist() == [True, False]
    assert np.isnan(data.frame(0, 0).boxes[1, 7:]).all()  # seen once: no velocity
    (tmp_path / "train.txt").write_text("scene-0002\n")
    assert nuscenes(tmp_path, "v1.0-mini", tmp_path / "train.txt").lengths == []
    with pytest.raises(UserError, match="official split"):
        nuscenes(tmp_path, "v1.0-mini", tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"nuscenes\.org"):
        nuscenes(tmp_path)


def test_once_and_waymo_layouts(tmp_path):
    folder = tmp_path / "data/000076"
    (folder / "lidar_roof").mkdir(parents=True)
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets/train.txt").write_text("000076\n")
    points = np.array([[1, 2, 3, 51]], "<f4")
    rows = []
    for i, stamp in enumerate(("1616000000000", "1616000000500")):
        points.tofile(folder / f"lidar_roof/{stamp}.bin")
        rows.append({"frame_id": stamp, "pose": [0, 0, np.sin(0.25), np.cos(0.25), i, 0, 0]})
    rows[1]["annos"] = {"names": ["Car"], "boxes_3d": [[1, 2, 0, 4, 2, 1.5, 0.3]]}
    (folder / "000076.json").write_text(json.dumps({"frames": rows}))
    data = once(tmp_path, "train")
    assert data.time(0, 1) - data.time(0, 0) == pytest.approx(0.5)
    assert yaw_of(data.pose(0, 1)) == pytest.approx(0.5)  # the scalar of the quaternion is last
    assert data.labelled(0) == [1]
    frame = data.frame(0, 1)
    np.testing.assert_allclose(frame.boxes[0], [1, 2, 0, 4, 2, 1.5, 0.3, 0, 0], rtol=1e-6)
    assert frame.points[0, 3] == pytest.approx(0.2)
    assert data.frame(0, 0).boxes.shape == (0, 9)
    segment = tmp_path / "waymo_processed_data_v0_5_0/segment-1"
    segment.mkdir(parents=True)
    (tmp_path / "ImageSets/val.txt").write_text("segment-1.tfrecord\n")
    np.save(segment / "0000.npy", np.array([[1, 2, 3, 1.0, 0.5, -1], [9, 9, 9, 0, 0, 1]], "f4"))
    infos = [
        {
            "pose": planar_pose(3, 0, 0).tolist(),
            "timestamp": 2_000_000,
            "names": ["Vehicle"],
            "boxes": [[1, 2, 0, 4, 2, 1.5, 0.3, 5, 6]],
            "num_points": [7],
        }
    ]
    empty = {"pose": infos[0]["pose"], "timestamp": 2_100_000, "names": [], "boxes": []}
    blank = {"pose": infos[0]["pose"], "timestamp": 2_200_000}
    (segment / "frames.json").write_text(json.dumps([*infos, empty, blank]))
    np.save(segment / "0001.npy", np.load(segment / "0000.npy"))
    assert waymo(tmp_path, "val").labelled(0) == [0, 1]  # also the one without an object
    assert waymo(tmp_path, "val").frame(0, 1).boxes.shape[0] == 0
    frame = waymo(tmp_path, "val").frame(0, 0)
    np.testing.assert_allclose(frame.points, [[1, 2, 3, np.tanh(1.0), 0.5]], rtol=1e-6)
    assert frame.boxes[0, 7:].tolist() == [5, 6]
    assert frame.time == 2.0
    with pytest.raises(UserError, match="once-for-auto-driving"):
        once(tmp_path, "raw_small")
    with pytest.raises(UserError, match="waymo"):
        waymo(tmp_path, "raw_small")
    (folder / "000076.json").write_text(json.dumps({"frames": [{"frame_id": "1"}]}))
    with pytest.raises(UserError, match="sequence 000076 .* damaged"):
        once(tmp_path, "train")
    (tmp_path / "ImageSets/empty.txt").write_text("\n")
    for reader in (once, waymo):
        with pytest.raises(UserError, match="names no sequence"):
            reader(tmp_path, "empty")

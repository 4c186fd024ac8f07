"""A deterministic LiDAR simulator: a street with traffic, a moving sensor, analytic ray casting.

The ego vehicle drives along +x on the right-hand lane; cars and cyclists keep to lanes (on the left
half they come towards it), pedestrians to the pavements, static boxes and poles stand outside. What
moves, and where to, can thus partly be told from a single scan, as on a real street.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from projects.trend.scans.poses import inverse, planar_pose, yaw_of
from projects.trend.scans.ray_casting import Solids, cast, grid_directions
from projects.trend.scans.sequences import FrameLists, LidarFrame

Floats = NDArray[np.floating]
ACTORS = ("car", "cyclist", "pedestrian")
CLASSES = ("ground", "building", "pole", *ACTORS)  # semantic labels of points
SIZES = np.array([[4.5, 1.9, 1.6], [1.8, 0.6, 1.7], [0.6, 0.6, 1.75]])  # length, width, height
SPEEDS = np.array([[0.0, 12.0], [2.0, 6.0], [0.0, 2.0]])  # m/s
REFLECTIVITY = np.array([0.25, 0.45, 0.6, 0.9, 0.7, 0.35])  # of `CLASSES`
LANES = np.array([[0.0, -3.5, 3.5, 7.0], [-5.6, 9.1, -6.6, 10.0], [-8.5, 12.0, -9.5, 13.0]])
HEADS_EAST = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], dtype=bool)
STOPPED = 0.1  # m/s below which an object counts as standing


@dataclass(frozen=True)
class Simulator:
    """Settings of the simulated drives.

    Attributes:
        num_frames: frames of a sequence.
        interval: seconds between frames.
        elevations: beams, evenly spaced over -20 to +4 degrees.
        azimuths: columns of one turn.
        max_range: metres; beyond it there is no return.
        sensor_height: metres above the ground.
        range_noise: standard deviation in metres.
        dropout: share of returns that are lost, drawn between these bounds for each sequence.
        ego_speed: m/s, drawn between these bounds.
        ego_yaw_rate: rad/s, drawn from +- this.
    """

    num_frames: int = 5
    interval: float = 0.5
    elevations: int = 16
    azimuths: int = 180
    max_range: float = 50.0
    sensor_height: float = 1.8
    range_noise: float = 0.02
    dropout: tuple[float, float] = (0.02, 0.05)
    ego_speed: tuple[float, float] = (0.0, 12.0)
    ego_yaw_rate: float = 0.2

    def sequences(self, count: int, seed: int, first: int = 0) -> FrameLists:
        """`count` sequences; number i depends on (seed, first + i) alone."""
        return FrameLists([self.sequence(seed, first + i) for i in range(count)])

    def sequence(self, seed: int, index: int) -> list[LidarFrame]:
        """One drive through one street."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, index, 7919))))
        world = street(rng)
        speed = rng.uniform(*self.ego_speed)
        rate = rng.uniform(-self.ego_yaw_rate, self.ego_yaw_rate)
        loss = rng.uniform(*self.dropout)
        times = self.interval * np.arange(self.num_frames)
        x, y, yaw = arc(np.zeros(3), np.array(speed), np.array(rate), times)
        poses = [planar_pose(*place, z=self.sensor_height) for place in zip(x, y, yaw, strict=True)]
        return [
            self._scan(rng, world, p, float(t), loss) for p, t in zip(poses, times, strict=True)
        ]

    def _scan(
        self, rng: np.random.Generator, world: "World", pose: Floats, time: float, loss: float
    ) -> LidarFrame:
        solids = world.at(time)
        elevations = np.deg2rad(np.linspace(-20, 4, self.elevations))
        azimuths = np.linspace(-np.pi, np.pi, self.azimuths, endpoint=False)
        hits = cast(pose[:3, 3], elevations, azimuths + yaw_of(pose), solids)
        directions = grid_directions(elevations, azimuths).astype(np.float32)
        noise = rng.normal(0, self.range_noise, hits.ranges.shape)
        lost = rng.uniform(size=hits.ranges.shape) < loss
        kept = (hits.ranges < self.max_range) & ~lost
        clean, solid = hits.ranges[kept], hits.solid[kept]
        ranges = np.maximum(clean + noise[kept], 0.1)
        normals = hits.normals[kept] @ pose[:3, :3].astype(np.float32)  # world to sensor
        labels = np.where(solid < 0, 0, world.classes[np.maximum(solid, 0)])
        incidence = np.abs((normals * directions[kept]).sum(axis=1))
        intensity = REFLECTIVITY[labels] * incidence * np.exp(-clean / 60)
        intensity = np.clip(intensity + rng.normal(0, 0.02, len(clean)), 0, 1)
        points = np.c_[directions[kept] * ranges[:, None], intensity].astype(np.float32)
        boxes, names, rows = world.boxes(time, pose)
        extra = {"solid": solid, "normals": normals, "missing": directions[~kept], "clean": clean}
        return LidarFrame(
            points,
            pose,
            time,
            boxes,
            names,
            np.bincount(solid[solid >= 0], minlength=len(world.speed))[rows],
            labels,
            (solid >= 0) & (world.speed[np.maximum(solid, 0)] > STOPPED),
            extra,
        )


@dataclass(frozen=True)
class World:
    """Solids of a street at time 0 and how they move.

    Attributes:
        start: (K, 3) x, y, yaw.
        size: (K, 3) length, width, height.
        classes: (K,) index into `CLASSES`.
        speed: (K,) m/s along the heading.
        rate: (K,) rad/s.
    """

    start: Floats
    size: Floats
    classes: NDArray[np.int64]
    speed: Floats
    rate: Floats

    def at(self, time: float) -> Solids:
        """Where everything is after some seconds."""
        x, y, yaw = arc(self.start.T, self.speed, self.rate, np.array(time))
        centre = np.stack([x, y, self.size[:, 2] / 2], axis=1)
        return Solids(centre, self.size / 2, yaw, self.classes == CLASSES.index("pole"))

    def boxes(self, time: float, pose: Floats) -> tuple[Floats, tuple[str, ...], NDArray[np.int64]]:
        """Actors as boxes in the sensor's frame, their names, and their rows."""
        solids = self.at(time)
        rows = np.flatnonzero(self.classes >= CLASSES.index(ACTORS[0]))
        centre = solids.centre[rows] @ inverse(pose)[:3, :3].T + inverse(pose)[:3, 3]
        yaw = solids.yaw[rows] - yaw_of(pose)
        velocity = self.speed[rows, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
        boxes = np.c_[centre, self.size[rows], yaw, velocity].astype(np.float32)
        return boxes, tuple(CLASSES[c] for c in self.classes[rows]), rows


def arc(start: Floats, speed: Floats, rate: Floats, time: Floats) -> tuple[Floats, Floats, Floats]:
    """x, y and yaw after driving along a circle.

    Args:
        start: x, y and yaw at time 0.
        speed: m/s.
        rate: rad/s; 0 is a straight line.
        time: seconds.
    """
    x, y, yaw = start
    angle = rate * time
    straight = speed * time * np.sinc(angle / 2 / np.pi)  # chord 2 r sin(angle / 2)
    return (
        x + straight * np.cos(yaw + angle / 2),
        y + straight * np.sin(yaw + angle / 2),
        yaw + angle,
    )


def street(rng: np.random.Generator) -> World:
    """10-30 static boxes, 5-15 poles, 5-15 actors that stand clear of them and of each other."""
    counts = rng.integers([10, 5, 5], [31, 16, 16])
    static = _buildings(rng, counts[0])
    poles = _poles(rng, counts[1])
    actors = _actors(rng, counts[2])
    parts = [np.concatenate(column) for column in zip(static, poles, actors, strict=True)]
    start, size, classes, speed, rate = parts
    return World(start, size, classes.astype(np.int64), speed, rate)


def _side(rng: np.random.Generator, count: int, right: float, left: float) -> Floats:
    """Lateral positions beyond the right or the left edge of the street."""
    return np.where(rng.uniform(size=count) < 0.5, -right, left)


def _buildings(rng: np.random.Generator, count: int) -> tuple[Any, ...]:
    size = rng.uniform([2, 2, 1], [9, 7, 7], (count, 3))
    edge = _side(rng, count, 11.5, 15.0)
    y = edge + np.sign(edge) * (size[:, 1] / 2 + rng.exponential(3, count))
    start = np.c_[rng.uniform(-50, 50, count), y, np.zeros(count)]
    return start, size, np.full(count, 1), np.zeros(count), np.zeros(count)


def _poles(rng: np.random.Generator, count: int) -> tuple[Any, ...]:
    radius = rng.uniform(0.12, 0.4, count)
    y = _side(rng, count, 10.5, 14.0)
    start = np.c_[rng.uniform(-45, 45, count), y, np.zeros(count)]
    size = np.c_[2 * radius, 2 * radius, rng.uniform(2, 6, count)]
    return start, size, np.full(count, 2), np.zeros(count), np.zeros(count)


def _actors(rng: np.random.Generator, count: int) -> tuple[Any, ...]:
    """Cars, cyclists and pedestrians in lanes of eight metre slots, at most one in a slot."""
    kind = rng.choice(3, count, p=[0.5, 0.2, 0.3])
    slots = rng.permutation(4 * 9)[:count]
    lane, slot = slots % 4, slots // 4
    near = (lane == 0) & (slot == 4) & (kind == 0)  # where the ego vehicle is
    x = (slot - 4) * 8.0 + rng.uniform(-1.2, 1.2, count) + 80.0 * near
    east = HEADS_EAST[kind, lane]
    start = np.c_[x, LANES[kind, lane], np.where(east, 0.0, np.pi)]
    size = SIZES[kind] * rng.uniform(0.92, 1.08, (count, 1))
    speed = rng.uniform(SPEEDS[kind, 0], SPEEDS[kind, 1])
    return start, size, kind + 3, speed, rng.uniform(-0.05, 0.05, count) * (kind == 0)

"""Which returns become rays: ground filter, range of the grid, uniform or spread-out choice."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Sampling = Literal["uniform", "spread"]


def above_ground(points: Floats, sensor_height: float, threshold: float) -> NDArray[np.bool_]:
    """Points higher than `threshold` above the ground under the vehicle.

    Args:
        points: (N, 3+) in the sensor's frame, z up.
        sensor_height: metres from the ground to the sensor.
        threshold: metres.
    """
    mask: NDArray[np.bool_] = points[:, 2] + sensor_height > threshold
    return mask


def inside(points: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Points of an axis-parallel box, upper bounds excluded."""
    x, y, z = ((points[:, i] >= low[i]) & (points[:, i] < high[i]) for i in range(3))
    within: NDArray[np.bool_] = x & y & z
    return within


def choose(
    points: Floats, count: int, rng: np.random.Generator, sampling: Sampling = "uniform"
) -> NDArray[np.int64]:
    """Indices of `count` points; some come twice when there are fewer points.

    Args:
        points: (N, 3+), N >= 1.
        count: indices wanted.
        rng: generator of this access.
        sampling: uniform, or spread: one point in each voxel of the size that gives about as many
            occupied voxels as points are wanted, a vectorised stand-in for farthest-point sampling.

    Raises:
        ValueError: no points.
    """
    if len(points) == 0:
        raise ValueError("no return is left for rays")
    if len(points) < count:
        extra = rng.choice(len(points), count - len(points))
        return np.concatenate([np.arange(len(points)), extra])
    if sampling == "uniform":
        return rng.choice(len(points), count, replace=False)
    first = spread(points, count, rng)
    rest = np.setdiff1d(np.arange(len(points)), first)
    return np.concatenate([first, rng.choice(rest, count - len(first), replace=False)])


def spread(points: Floats, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """At most `count` indices, one for each occupied voxel; the size is found by bisection."""
    order = rng.permutation(len(points))
    xyz = points[order, :3] - points[:, :3].min(axis=0)
    small, large = 1e-3, float(xyz.max()) + 1.0
    chosen = order[:1]
    for _ in range(20):
        size = (small * large) ** 0.5
        rows = _first_of_each((xyz / size).astype(np.int64))
        if len(rows) > count:
            small = size
        else:
            chosen, large = order[rows], size
    return chosen


def _first_of_each(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the first of all equal cells (N, 3), which are >= 0; cells in lexicographic order."""
    x, y, z = (int(n) + 1 for n in cells.max(axis=0))
    if x * y * z >= 2**63:
        return np.asarray(np.unique(cells, axis=0, return_index=True)[1])
    return np.asarray(np.unique(_keys(cells, y, z), return_index=True)[1])


def _keys(cells: NDArray[np.int64], y: int, z: int) -> NDArray[np.int64]:
    """One number for each cell (N, 3) of a grid of any x y z; sorts alike, several times faster."""
    keys: NDArray[np.int64] = (cells[:, 0] * y + cells[:, 1]) * z + cells[:, 2]
    return keys


def block_mask(
    points: Floats, low: Floats, voxel: Floats, block: int, rate: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which points stay when a share of the occupied blocks of voxels is masked.

    Args:
        points: (N, 3+), inside the grid.
        low: (3,) lower corner of the grid.
        voxel: (3,) metres.
        block: edge of a block in voxels.
        rate: share of the occupied blocks to mask, in [0, 1).
        rng: generator of this access.
    """
    if not len(points):
        return np.zeros(0, dtype=bool)
    cells = np.floor((points[:, :3] - low) / (np.asarray(voxel) * block)).astype(np.int64)
    _, y, z = (int(n) + 1 for n in cells.max(axis=0))
    occupied, owner = np.unique(_keys(cells, y, z), return_inverse=True)
    masked = rng.permutation(len(occupied)) < round(rate * len(occupied))
    kept: NDArray[np.bool_] = ~masked[owner]
    return kept

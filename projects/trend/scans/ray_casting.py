"""Analytic ranges of a spinning LiDAR among vertical solids: ground plane, boxes, cylinders.

All solids are vertical prisms, so a ray's horizontal part (azimuth) decides where it enters and
leaves the outline, its elevation where it enters and leaves the height. The two are computed apart
and joined on the grid of elevations x azimuths: no loop over rays or solids.
"""

# E elevations, A azimuths, K solids
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
FAR = np.float32(1e9)


class Solids(NamedTuple):
    """Upright boxes and cylinders.

    Attributes:
        centre: (K, 3).
        half: (K, 3) half length, width and height; of cylinders the radius twice, half height.
        yaw: (K,) radians.
        round: (K,) bool, True for cylinders.
    """

    centre: Floats
    half: Floats
    yaw: Floats
    round: NDArray[np.bool_]


class Hits(NamedTuple):
    """What the rays meet first.

    Attributes:
        ranges: (E, A) metres, infinite without a hit.
        solid: (E, A) index of the solid, -1 the ground, -2 nothing.
        normals: (E, A, 3) outward unit normals, 0 without a hit.
    """

    ranges: Floats
    solid: NDArray[np.int64]
    normals: Floats


def grid_directions(elevations: Floats, azimuths: Floats) -> Floats:
    """Unit directions (E, A, 3) of all elevations and azimuths in radians."""
    e, a = elevations[:, None], azimuths[None, :]
    flat = np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e) + 0 * a
    return np.stack(flat, axis=-1)


def cast(origin: Floats, elevations: Floats, azimuths: Floats, solids: Solids) -> Hits:
    """First hit of every ray among solids and the ground z = 0.

    A solid that holds the origin is not hit.

    Args:
        origin: (3,) position of the sensor, z > 0.
        elevations: (E,) radians.
        azimuths: (A,) radians.
        solids: K upright boxes and cylinders in the world.
    """
    enter, leave, axis = _outline(origin, azimuths, solids)  # (A, K), horizontal distances
    slope = np.tan(elevations).astype(np.float32)[:, None]  # (E, 1)
    low, high = _heights(origin, slope, solids)  # (E, K)
    first = np.maximum(enter[None], low[:, None])  # (E, A, K)
    hit = (first <= np.minimum(leave[None], high[:, None])) & (first > 0)
    flat = np.where(hit, first, FAR)
    best = flat.argmin(axis=-1) if flat.shape[-1] else np.zeros(flat.shape[:2], dtype=np.int64)
    near = _pick(flat, best) if flat.shape[-1] else np.full(flat.shape[:2], FAR)
    ground = np.where(slope < 0, -origin[2] / np.minimum(slope, -1e-6), FAR)
    ground = np.broadcast_to(ground, near.shape)
    on_ground = ground < near
    distance = np.where(on_ground, ground, near)
    solid = np.where(on_ground, -1, np.where(distance < FAR, best, -2)).astype(np.int64)
    normals = np.zeros((*near.shape, 3), dtype=np.float32)
    normals[on_ground] = 0, 0, 1
    touched = solid >= 0
    if touched.any():
        normals[touched] = _normals(touched, best, low, slope, enter, axis)
    ranges = np.where(solid == -2, np.inf, distance / np.cos(elevations)[:, None])
    return Hits(ranges.astype(np.float32), solid, normals)


def _pick(values: Floats, index: NDArray[np.int64]) -> Floats:
    return np.take_along_axis(values, index[..., None], axis=-1)[..., 0]


def _outline(origin: Floats, azimuths: Floats, solids: Solids) -> tuple[Floats, Floats, Floats]:
    """Horizontal entry and exit (A, K) of the outlines, and the outward normal at the entry."""
    turn = azimuths[:, None] - solids.yaw[None]
    dx, dy = np.cos(turn), np.sin(turn)  # direction in the solid's own axes
    offset = origin[None, :2] - solids.centre[:, :2]
    c, s = np.cos(solids.yaw), np.sin(solids.yaw)
    ox, oy = c * offset[:, 0] + s * offset[:, 1], -s * offset[:, 0] + c * offset[:, 1]
    slabs = [
        _slab(o, d, h) for o, d, h in ((ox, dx, solids.half[:, 0]), (oy, dy, solids.half[:, 1]))
    ]
    enter = np.maximum(slabs[0][0], slabs[1][0])
    leave = np.minimum(slabs[0][1], slabs[1][1])
    side = slabs[0][0] >= slabs[1][0]
    local = np.where(side, -np.sign(dx), 0), np.where(side, 0, -np.sign(dy))
    along, square = ox * dx + oy * dy, ox * ox + oy * oy  # cylinders: |o + t d|^2 = r^2
    root = along**2 - square + solids.half[:, 0] ** 2
    half_chord = np.sqrt(np.maximum(root, 0))
    enter = np.where(solids.round, np.where(root > 0, -along - half_chord, FAR), enter)
    leave = np.where(solids.round, np.where(root > 0, -along + half_chord, -FAR), leave)
    radius = np.maximum(solids.half[:, 0], 1e-6)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = (ox + enter * dx) / radius, (oy + enter * dy) / radius
    nx, ny = (np.where(solids.round, r, b) for r, b in zip(rounded, local, strict=True))
    normal = np.stack([c * nx - s * ny, s * nx + c * ny], axis=-1)
    return enter.astype(np.float32), leave.astype(np.float32), normal.astype(np.float32)


def _slab(offset: Floats, direction: Floats, half: Floats) -> tuple[Floats, Floats]:
    """Entry and exit of |offset + t direction| <= half."""
    safe = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    a, b = (-half - offset) / safe, (half - offset) / safe
    return np.minimum(a, b), np.maximum(a, b)


def _heights(origin: Floats, slope: Floats, solids: Solids) -> tuple[Floats, Floats]:
    """Horizontal distances (E, K) between which a ray is at the height of the solid."""
    safe = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
    bottom = (solids.centre[:, 2] - solids.half[:, 2] - origin[2]) / safe
    top = (solids.centre[:, 2] + solids.half[:, 2] - origin[2]) / safe
    low, high = np.minimum(bottom, top), np.maximum(bottom, top)
    return low.astype(np.float32), high.astype(np.float32)


def _normals(
    touched: NDArray[np.bool_],
    best: NDArray[np.int64],
    low: Floats,
    slope: Floats,
    enter: Floats,
    outline: Floats,
) -> Floats:
    """Normals (H, 3) of the rays that hit a solid: its side, or its top or bottom."""
    e, a = np.nonzero(touched)
    k = best[e, a]
    normals = np.zeros((len(e), 3), dtype=np.float32)
    normals[:, :2] = outline[a, k]
    cap = low[e, k] > enter[a, k]
    normals[cap] = 0
    normals[cap, 2] = -np.sign(slope[e, 0])[cap]
    return normals

"""Voxels by one key against voxels by rows."""

import numpy as np
import pytest

from projects.trend.scans.rays import _first_of_each, spread


def by_rows(points, count, rng):
    """`spread` as it reads: distinct rows of three numbers."""
    order = rng.permutation(len(points))
    xyz = points[order, :3] - points[:, :3].min(axis=0)
    small, large = 1e-3, float(xyz.max()) + 1.0
    chosen = order[:1]
    for _ in range(20):
        size = (small * large) ** 0.5
        _, rows = np.unique((xyz / size).astype(np.int64), axis=0, return_index=True)
        if len(rows) > count:
            small = size
        else:
            chosen, large = order[rows], size
    return chosen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("span", [0.01, 3.0, 80.0, 1e8])
def test_one_key_finds_the_same_voxels_in_the_same_order(span, dtype):
    """Negative coordinates, flat clouds, equal points, and a span whose keys do not fit into 64
    bits.
    """
    for seed in range(6):
        rng = np.random.default_rng(seed)
        points = rng.uniform(-span, span, (rng.integers(1, 300), 4)).astype(dtype)
        points[:, rng.integers(3)] *= rng.choice([0.0, 1e-3, 1.0])
        points = np.concatenate([points, points[: len(points) // 3]])
        count = int(rng.integers(1, len(points) + 1))
        own, expected = (
            f(points, count, np.random.default_rng(seed + 9)) for f in (spread, by_rows)
        )
        np.testing.assert_array_equal(own, expected)


def test_cells_beyond_64_bits_are_told_apart():
    """2^21 cells an edge fit, 2^22 do not: their keys would be equal."""
    for edge in (2**21 - 1, 2**22 - 1):
        cells = np.array([[edge, 0, edge], [0, edge, 0], [0, 0, 0], [edge, 0, edge], [2**20, 0, 0]])
        assert _first_of_each(cells).tolist() == [2, 1, 4, 0]

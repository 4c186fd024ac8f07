"""Voxels: grids, mean features of occupied cells, and dense volumes from them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VoxelGrid:
    """An axis-parallel box cut into cells.

    Attributes:
        low: lower corner x, y, z in metres.
        high: upper corner.
        voxel: edges of a cell.

    >>> VoxelGrid((-4, -4, -1), (4, 4, 1), (1, 1, 0.5)).shape
    (4, 8, 8)
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    voxel: tuple[float, float, float]

    def __post_init__(self) -> None:
        bounds = zip(self.low, self.high, self.voxel, strict=True)
        if not all(h > low and v > 0 for low, h, v in bounds):
            raise ValueError(f"no grid: {self.low} to {self.high} in cells of {self.voxel}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along z, y, x."""
        x, y, z = (
            round((h - low) / v) for low, h, v in zip(self.low, self.high, self.voxel, strict=True)
        )
        return z, y, x

    @property
    def scale(self) -> float:
        """Largest absolute coordinate, metres in one scaled unit."""
        return max(abs(c) for c in (*self.low, *self.high))


@dataclass
class Voxels:
    """Occupied cells of a batch, in the order of their index.

    Attributes:
        features: (M, C).
        coords: (M, 4) int64 batch, z, y, x.
        shape: cells along z, y, x.
        batch_size: samples.
    """

    features: Tensor
    coords: Tensor
    shape: tuple[int, int, int]
    batch_size: int

    def replace_feature(self, features: Tensor) -> "Voxels":
        """The same cells with other features."""
        return Voxels(features, self.coords, self.shape, self.batch_size)

    def dense(self) -> Tensor:
        """(B, C, D, H, W), zero where nothing is."""
        return dense_volume(self.features, self.coords, self.shape, self.batch_size)


def cell_keys(coords: Tensor, shape: Sequence[int]) -> Tensor:
    """One number per cell (M,), increasing in batch, z, y, x."""
    depth, height, width = shape
    b, z, y, x = coords.unbind(-1)
    return ((b * depth + z) * height + y) * width + x


def coords_of_keys(keys: Tensor, shape: Sequence[int]) -> Tensor:
    """Inverse of `cell_keys`: (M, 4)."""
    depth, height, width = shape
    y, x = keys // width, keys % width
    z, y = y // height, y % height
    return torch.stack([z // depth, z % depth, y, x], dim=-1)


def voxelise(
    points: Tensor, batch: Tensor, grid: VoxelGrid, batch_size: int, extra_depth: int = 0
) -> Voxels:
    """Mean of the points in every occupied cell (mean VFE); points outside are dropped.

    Args:
        points: (N, 3 + d).
        batch: (N,) int64 sample of each point.
        grid: the cells.
        batch_size: samples.
        extra_depth: cells added above, which stay empty (OpenPCDet adds one).
    """
    low, voxel = points.new_tensor(grid.low), points.new_tensor(grid.voxel)
    depth, height, width = grid.shape
    size = torch.tensor([width, height, depth], device=points.device)
    index = ((points[:, :3] - low) / voxel).floor().long()
    inside = ((index >= 0) & (index < size)).all(dim=1)
    index, points, batch = index[inside], points[inside], batch[inside]
    shape = (depth + extra_depth, height, width)
    keys = cell_keys(torch.cat([batch[:, None], index.flip(1)], dim=1), shape)
    cells, owner, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    sums = points.new_zeros(len(cells), points.shape[1]).index_add_(0, owner, points)
    coords = coords_of_keys(cells, shape)
    return Voxels(sums / counts[:, None].to(points.dtype), coords, shape, batch_size)


def dense_volume(features: Tensor, coords: Tensor, shape: Sequence[int], batch_size: int) -> Tensor:
    """Scatter features (M, C) of cells into (B, C, D, H, W)."""
    cells = batch_size * math.prod(shape)
    flat = features.new_zeros(cells, features.shape[1])
    flat = flat.index_copy(0, cell_keys(coords, shape), features)
    return flat.view(batch_size, *shape, -1).permute(0, 4, 1, 2, 3).contiguous()

"""3-D encoders of point clouds: points -> feature volume (B, C, D, H, W)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from projects.trend.encoders.sparse_conv import Backend, SparseConv3d, Triple, resolve_backend
from projects.trend.encoders.voxels import VoxelGrid, Voxels, dense_volume, voxelise

Norm = Literal["batch", "group"]


def norm_3d(channels: int, norm: Norm) -> nn.Module:
    """Batch norm with the settings of OpenPCDet, or group norm over eight channels each."""
    if norm == "batch":
        return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)
    return nn.GroupNorm(max(1, channels // 8), channels)


class DenseVoxelEncoder(nn.Module):
    """Dense convolutions on the whole grid; needs no sparse operations.

    A cell holds its occupancy, the offset of the mean point from the cell's centre in cells, and
    the mean of the further point features.

    Args:
        grid: the cells.
        num_features: columns of a point beyond xyz.
        widths: channels after each convolution.
        strides: of each convolution along z, y, x.
        norm: of every layer.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        num_features: int,
        widths: Sequence[int] = (16, 32, 32),
        strides: Sequence[Triple] = ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
        norm: Norm = "group",
    ) -> None:
        super().__init__()
        self.grid, self.channels = grid, widths[-1]
        layers: list[nn.Module] = []
        channels = 4 + num_features
        shape = list(grid.shape)
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv3d(channels, width, 3, stride=stride, padding=1, bias=False),
                norm_3d(width, norm),
                nn.ReLU(inplace=True),
            ]
            channels = width
            shape = [(n - 1) // s + 1 for n, s in zip(shape, stride, strict=True)]
        self.layers = nn.Sequential(*layers)
        self.volume_shape = (shape[0], shape[1], shape[2])

    def forward(self, points: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Points (N, 3 + d) of `batch_size` samples -> (B, C, D, H, W)."""
        voxels = voxelise(points, batch, self.grid, batch_size)
        low, size = points.new_tensor(self.grid.low), points.new_tensor(self.grid.voxel)
        corner = voxels.coords[:, 1:].flip(1).to(points.dtype)
        offset = (voxels.features[:, :3] - low) / size - corner - 0.5
        ones = torch.ones_like(offset[:, :1])
        cells = torch.cat([ones, offset, voxels.features[:, 3:]], dim=1)
        dense = dense_volume(cells, voxels.coords, voxels.shape, batch_size)
        volume: Tensor = self.layers(dense)
        return volume


class SparseBasicBlock(nn.Module):
    """Residual block of two submanifold convolutions, as in OpenPCDet."""

    def __init__(self, channels: int, conv: "ConvFactory", level: int) -> None:
        super().__init__()
        key = f"res{level}"
        self.conv1 = conv.submanifold(channels, channels, bias=True, key=key)
        self.bn1 = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)
        self.conv2 = conv.submanifold(channels, channels, bias=True, key=key)
        self.bn2 = nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Any) -> Any:
        """Sparse tensor of either backend."""
        out = self.conv1(x)
        out = out.replace_feature(self.bn1(out.features).relu())
        out = self.conv2(out)
        return out.replace_feature((self.bn2(out.features) + x.features).relu())


class ConvFactory:
    """Makes the convolutions of one backend; parameter names and layouts agree.

    Args:
        backend: torch or spconv.
    """

    def __init__(self, backend: Literal["torch", "spconv"]) -> None:
        self.backend = backend

    def submanifold(self, inside: int, outside: int, *, bias: bool, key: str) -> nn.Module:
        """A 3^3 submanifold convolution; layers of one key share their rules in spconv."""
        if self.backend == "torch":
            return SparseConv3d(inside, outside, submanifold=True, bias=bias)
        import spconv.pytorch as spconv

        return spconv.SubMConv3d(inside, outside, 3, padding=1, bias=bias, indice_key=key)  # type: ignore[no-any-return]

    def strided(self, inside: int, outside: int, padding: Triple) -> nn.Module:
        """A 3^3 convolution of stride 2."""
        if self.backend == "torch":
            return SparseConv3d(inside, outside, stride=(2, 2, 2), padding=padding)
        import spconv.pytorch as spconv

        return spconv.SparseConv3d(  # type: ignore[no-any-return]
            inside, outside, 3, stride=2, padding=list(padding), bias=False
        )


class _Block(nn.Sequential):
    """Convolution, norm, ReLU on sparse tensors; indexed as OpenPCDet's post_act_block."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__(conv, nn.BatchNorm1d(channels, eps=1e-3, momentum=0.01), nn.ReLU())

    def forward(self, x: Any) -> Any:
        out = self[0](x)
        return out.replace_feature(self[2](self[1](out.features)))


class VoxelResBackBone8x(nn.Module):
    """The sparse residual encoder of CenterPoint in OpenPCDet up to ``x_conv4`` (stride 8).

    Names of parameters are those of OpenPCDet's ``backbone_3d``, weights those of spconv 2, so that
    an exported state dict loads there (``conv_out`` belongs to the detector's neck here).

    Source: Yin, Zhou & Krahenbuhl 2021, "Center-based 3D object detection and tracking",
    arXiv 2006.11275; widths and norms of open-mmlab/OpenPCDet (Apache-2.0).

    Args:
        grid: the cells; one empty layer is added above as OpenPCDet does.
        num_features: columns of a point beyond xyz.
        widths: channels at strides 1, 2, 4, 8.
        backend: auto, torch or spconv.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        num_features: int,
        widths: Sequence[int] = (16, 32, 64, 128),
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.grid, self.channels = grid, widths[3]
        self.backend = resolve_backend(backend)
        conv = ConvFactory(self.backend)
        first = conv.submanifold(3 + num_features, widths[0], bias=False, key="subm1")
        self.conv_input = _Block(first, widths[0])
        self.conv1 = nn.Sequential(*(SparseBasicBlock(widths[0], conv, 1) for _ in range(2)))
        paddings: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 1), (0, 1, 1))
        levels = [
            nn.Sequential(
                _Block(conv.strided(inside, outside, padding), outside),
                SparseBasicBlock(outside, conv, level),
                SparseBasicBlock(outside, conv, level),
            )
            for level, (inside, outside, padding) in enumerate(
                zip(widths[:-1], widths[1:], paddings, strict=True), 2
            )
        ]
        self.conv2, self.conv3, self.conv4 = levels
        shape = [grid.shape[0] + 1, *grid.shape[1:]]
        for padding in paddings:
            shape = [(n + 2 * p - 3) // 2 + 1 for n, p in zip(shape, padding, strict=True)]
        self.volume_shape = (shape[0], shape[1], shape[2])

    def forward(self, points: Tensor, batch: Tensor, batch_size: int) -> Tensor:
        """Points (N, 3 + d) of `batch_size` samples -> (B, C, D, H, W)."""
        voxels = voxelise(points, batch, self.grid, batch_size, extra_depth=1)
        x: Any = voxels if self.backend == "torch" else _to_spconv(voxels)
        for block in (self.conv_input, self.conv1, self.conv2, self.conv3, self.conv4):
            x = block(x)
        volume: Tensor = x.dense()
        return volume


def _to_spconv(voxels: Voxels) -> Any:
    import spconv.pytorch as spconv

    return spconv.SparseConvTensor(
        voxels.features, voxels.coords.int(), list(voxels.shape), voxels.batch_size
    )


def build_voxel_encoder(
    name: str,
    *,
    low: Sequence[float],
    high: Sequence[float],
    voxel: Sequence[float],
    num_features: int,
    widths: Sequence[int],
    strides: Sequence[Sequence[int]],
    norm: Norm = "group",
    backend: Backend = "auto",
) -> DenseVoxelEncoder | VoxelResBackBone8x:
    """An encoder from plain values, as they are stored alongside exported weights.

    Args:
        name: dense or voxel_res_8x.
        low: lower corner of the grid in metres.
        high: upper corner.
        voxel: edges of a cell.
        num_features: columns of a point beyond xyz.
        widths: channels of the layers (dense) or levels (voxel_res_8x).
        strides: of the dense layers along z, y, x.
        norm: of the dense layers.
        backend: of voxel_res_8x.

    Raises:
        ValueError: unknown name.
    """
    corners = [(float(a[0]), float(a[1]), float(a[2])) for a in (low, high, voxel)]
    grid = VoxelGrid(corners[0], corners[1], corners[2])
    if name == "voxel_res_8x":
        return VoxelResBackBone8x(grid, num_features, widths, backend)
    if name != "dense":
        raise ValueError(f"encoder '{name}': use dense or voxel_res_8x")
    steps = [(int(s[0]), int(s[1]), int(s[2])) for s in strides]
    return DenseVoxelEncoder(grid, num_features, widths, steps, norm)

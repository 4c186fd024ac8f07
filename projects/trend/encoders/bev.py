"""Bird's-eye-view parts of LiDAR detectors: neck, 2-D backbone, box codes, centre head."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.trend.encoders.voxels import VoxelGrid

CODE = 10  # offset x, y; z; log length, width, height; sin, cos of yaw; velocity x, y


class BevGrid(NamedTuple):
    """Cells of a bird's-eye-view map.

    Attributes:
        low: lower corner x, y in metres.
        cell: edges of a cell along x, y.
        shape: rows (y) and columns (x).
    """

    low: tuple[float, float]
    cell: tuple[float, float]
    shape: tuple[int, int]

    def columns(self, xy: Tensor) -> Tensor:
        """Continuous cell coordinates (..., 2) along x, y of points in metres."""
        return (xy - xy.new_tensor(self.low)) / xy.new_tensor(self.cell)

    def metres(self, columns: Tensor) -> Tensor:
        """Inverse of `columns`."""
        return columns * columns.new_tensor(self.cell) + columns.new_tensor(self.low)


def bev_grid(grid: VoxelGrid, shape: tuple[int, int]) -> BevGrid:
    """The map of a feature volume with `shape` rows and columns over a voxel grid."""
    rows, columns = shape
    size = grid.high[0] - grid.low[0], grid.high[1] - grid.low[1]
    return BevGrid(grid.low[:2], (size[0] / columns, size[1] / rows), shape)


class BevNeck(nn.Module):
    """Volume -> map: a (3, 1, 1) convolution of stride 2 along z where there is height for it.

    The counterpart of ``conv_out`` of OpenPCDet's sparse backbone, on the dense volume.

    Args:
        channels: of the volume.
        depth: layers of the volume.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.convolves = depth >= 3
        self.out_channels = channels * ((depth - 3) // 2 + 1 if self.convolves else depth)
        if self.convolves:
            self.conv = nn.Sequential(
                nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), bias=False),
                nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01),
                nn.ReLU(),
            )

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', H, W)."""
        return (self.conv(volume) if self.convolves else volume).flatten(1, 2)


class BevBackbone(nn.Module):
    """Two blocks at strides 1 and 2, the second upsampled and joined (SECOND).

    Source: Yan, Mao & Li 2018, "SECOND: sparsely embedded convolutional detection", section 3.1.

    Args:
        in_channels: of the map.
        width: channels of the first block, twice as many in the second.
        layers: convolutions of a block after its first.
    """

    def __init__(self, in_channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.fine = self._block(in_channels, width, 1, layers)
        self.coarse = self._block(width, 2 * width, 2, layers)
        self.side = self._out(nn.Conv2d(width, 2 * width, 1, bias=False), 2 * width)
        up = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2, bias=False)
        self.up = self._out(up, 2 * width)
        self.out_channels = 4 * width

    def _block(self, inside: int, outside: int, stride: int, layers: int) -> nn.Sequential:
        convs = [self._out(nn.Conv2d(inside, outside, 3, stride, 1, bias=False), outside)]
        for _ in range(layers):
            convs.append(self._out(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), outside))
        return nn.Sequential(*convs)

    @staticmethod
    def _out(conv: nn.Module, channels: int) -> nn.Sequential:
        return nn.Sequential(conv, nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 4 width, H, W)."""
        fine = self.fine(x)
        up = self.up(self.coarse(fine))[..., : fine.shape[2], : fine.shape[3]]
        return torch.cat([self.side(fine), up], dim=1)


def encode_boxes(boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Codes (K, 10) of boxes (K, 9) and the cells (K, 2) of their centres (x, y)."""
    place = grid.columns(boxes[:, :2])
    cell = place.floor()
    code = torch.cat(
        [
            place - cell,
            boxes[:, 2:3],
            boxes[:, 3:6].clamp_min(1e-3).log(),
            boxes[:, 6:7].sin(),
            boxes[:, 6:7].cos(),
            boxes[:, 7:9],
        ],
        dim=1,
    )
    return code, cell.long()


def decode_boxes(code: Tensor, cell: Tensor, grid: BevGrid) -> Tensor:
    """Inverse of `encode_boxes`: (..., 10) and (..., 2) -> (..., 9)."""
    xy = grid.metres(cell.to(code.dtype) + code[..., :2])
    yaw = torch.atan2(code[..., 6:7], code[..., 7:8])
    size = code[..., 3:6].clamp(-5, 5).exp()
    return torch.cat([xy, code[..., 2:3], size, yaw, code[..., 8:10]], dim=-1)


class Detections(NamedTuple):
    """Boxes of one frame.

    Attributes:
        boxes: (K, 9) x, y, z, l, w, h, yaw, vx, vy.
        scores: (K,) falling.
        labels: (K,) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class CenterHead(nn.Module):
    """Class heat maps and a box code for every cell.

    Source: Yin, Zhou & Krahenbuhl 2021, "Center-based 3D object detection and tracking", section 4,
    arXiv 2006.11275.

    Args:
        in_channels: of the map.
        width: of the shared convolution.
        num_classes: K.
        grid: cells of the map.
    """

    def __init__(self, in_channels: int, width: int, num_classes: int, grid: BevGrid) -> None:
        super().__init__()
        self.grid = grid
        self.shared = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width, eps=1e-3, momentum=0.01),
            nn.ReLU(),
        )
        self.heat = nn.Conv2d(width, num_classes, 3, padding=1)
        self.code = nn.Conv2d(width, CODE, 3, padding=1)
        nn.init.constant_(self.heat.bias, -2.19)  # type: ignore[arg-type]  # sigmoid 0.1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) -> heat logits (B, K, H, W), codes (B, 10, H, W)."""
        shared = self.shared(x)
        return self.heat(shared), self.code(shared)

    def decode(
        self, heat: Tensor, code: Tensor, *, max_boxes: int = 60, threshold: float = 0.1
    ) -> list[Detections]:
        """Boxes at local maxima of the heat maps."""
        scores, labels, cells = heat_peaks(heat.sigmoid(), max_boxes)
        columns = self.grid.shape[1]
        codes = code.flatten(2).gather(2, cells[:, None].expand(-1, CODE, -1)).transpose(1, 2)
        place = torch.stack([cells % columns, cells // columns], dim=-1)
        boxes = decode_boxes(codes, place, self.grid)
        return [
            Detections(b[s > threshold], s[s > threshold], k[s > threshold])
            for b, s, k in zip(boxes, scores, labels, strict=True)
        ]


def heat_peaks(
    heat: Tensor, count: int, crowded: Sequence[int] = ()
) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest local maxima (3 x 3) over all classes.

    Args:
        heat: (B, K, H, W) in [0, 1].
        count: peaks wanted, at most K H W are returned.
        crowded: classes that may have peaks in neighbouring cells: each of their cells is one.

    Returns:
        scores, classes and cells (row * W + column), (B, count) each, falling scores.
    """
    highest = F.max_pool2d(heat, 3, stride=1, padding=1) == heat
    highest[:, list(crowded)] = True
    peaks = heat * highest
    size = math.prod(heat.shape[2:])
    scores, index = peaks.flatten(1).topk(min(count, peaks[0].numel()), dim=1)
    return scores, index // size, index % size

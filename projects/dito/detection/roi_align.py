"""RoIAlign over the levels of a pyramid, by torchvision.

# N regions, C channels
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

CANONICAL_LEVEL = 4


def with_image(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes of each image (n_i, 4) -> (N, 5) whose first column is the image's index."""
    parts = [torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)]
    return torch.cat(parts)


def roi_levels(boxes: Tensor, lowest: int, highest: int, canonical_size: float = 224.0) -> Tensor:
    """Level of every box by its size: k = floor(4 + log2(sqrt(w h) / 224)), clamped.

    Source: Lin et al. 2017, "Feature Pyramid Networks", equation 1, arXiv 1612.03144.

    Args:
        boxes: (N, 4) as x1, y1, x2, y2 in pixels.
        lowest: least level (2 has stride 4).
        highest: largest level.
        canonical_size: side in pixels of a box on level 4.

    Returns:
        (N,) int64.

    >>> boxes = torch.tensor([[0., 0, 224, 224], [0, 0, 112, 111], [0, 0, 9, 9]])
    >>> roi_levels(boxes, 2, 5).tolist()
    [4, 2, 2]
    """
    area = (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)
    level = torch.floor(CANONICAL_LEVEL + torch.log2(area.sqrt() / canonical_size + 1e-8))
    return level.clamp(lowest, highest).long()


def multilevel_roi_align(
    maps: Sequence[Tensor],
    strides: Sequence[int],
    rois: Tensor,
    size: int = 7,
    canonical_size: float = 224.0,
) -> Tensor:
    """Crop every region from the level that fits its size.

    Source: He et al. 2017, "Mask R-CNN" (RoIAlign), arXiv 1703.06870; torchvision.ops.roi_align.

    Args:
        maps: (B, C, H_l, W_l) of each level.
        strides: powers of two, in pixels, one for each level, ascending.
        rois: (N, 5): image, x1, y1, x2, y2 in pixels, float32 also next to maps of half precision.
        size: side of a crop.
        canonical_size: see `roi_levels`.

    Returns:
        (N, C, size, size) in the dtype of the maps.
    """
    numbers = [round(math.log2(stride)) for stride in strides]
    level = roi_levels(rois[:, 1:], numbers[0], numbers[-1], canonical_size)
    out = maps[0].new_zeros(len(rois), maps[0].shape[1], size, size)
    for number, stride, grid in zip(numbers, strides, maps, strict=True):
        rows = (level == number).nonzero()[:, 0]
        if len(rows):
            kind = torch.promote_types(
                grid.dtype, torch.float32
            )  # bfloat16 rounds pixels by up to 4
            crops = roi_align(
                grid.to(kind), rois[rows].to(kind), size, 1 / stride, sampling_ratio=2, aligned=True
            )
            out = out.index_copy(0, rows, crops.to(out.dtype))
    return out

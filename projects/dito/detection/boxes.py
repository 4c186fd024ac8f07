"""Boxes: random ones, a grid of them, offsets, and the regions that a head is trained on.

# N boxes as x1, y1, x2, y2
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_CODER = BoxCoder(WEIGHTS)


def random_boxes(
    rng: np.random.Generator,
    count: int,
    area: tuple[float, float] = (0.05, 1.0),
    aspect: tuple[float, float] = (0.5, 2.0),
) -> np.ndarray:
    """Relative boxes: area uniform, aspect log-uniform, centre uniform within the image.

    Args:
        rng: random generator.
        count: boxes.
        area: least and largest share of the image.
        aspect: least and largest width over height; cut where a side would exceed the image.

    Returns:
        (count, 4) float32 in [0, 1].
    """
    size = rng.uniform(*area, count)
    ratio = np.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1]), count))
    width, height = np.minimum(np.sqrt(size * ratio), 1), np.minimum(np.sqrt(size / ratio), 1)
    x, y = rng.uniform(0, 1, count) * (1 - width), rng.uniform(0, 1, count) * (1 - height)
    return np.stack([x, y, x + width, y + height], 1).astype(np.float32)


def grid_boxes(sides: Sequence[float], step: float = 0.5) -> Tensor:
    """Squares of relative sides, each moved over the image by `step` of its side; (N, 4) in [0, 1].

    >>> grid_boxes([1.0]).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    grids = []
    for side in sides:
        places = torch.linspace(0, 1 - side, max(1, round((1 - side) / (step * side)) + 1))
        y, x = torch.meshgrid(places, places, indexing="ij")
        corner = torch.stack([x.flatten(), y.flatten()], 1)
        grids.append(torch.cat([corner, corner + side], 1))
    return torch.cat(grids)


def encode_offsets(truth: Tensor, boxes: Tensor) -> Tensor:
    """Offsets (10 dx/w, 10 dy/h, 5 log w'/w, 5 log h'/h) of true boxes from proposals, (N, 4).

    Source: Girshick 2015, "Fast R-CNN", arXiv 1504.08083; torchvision's BoxCoder.

    >>> encode_offsets(torch.tensor([[1., 0, 3, 2]]), torch.tensor([[0., 0, 2, 2]])).tolist()
    [[5.0, 0.0, 0.0, 0.0]]
    """
    offsets: Tensor = _CODER.encode_single(truth, boxes)
    return offsets


def apply_offsets(offsets: Tensor, boxes: Tensor) -> Tensor:
    """Undo `encode_offsets`: (N, 4) and (N, 4) -> boxes (N, 4)."""
    moved: Tensor = _CODER.decode_single(offsets, boxes)
    return moved


class Regions(NamedTuple):
    """Regions of one image that a head is trained on."""

    boxes: Tensor  # (R, 4)
    labels: Tensor  # (R,) int64, 0 is background
    offsets: Tensor  # (R, 4), zero for background
    matches: Tensor  # (R,) int64, the true box of foreground, 0 for background


def sample_regions(
    proposals: Tensor,
    truth: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    *,
    count: int = 512,
    positive_fraction: float = 0.25,
    iou: float = 0.5,
) -> Regions:
    """Draw regions with a quarter of foreground, true boxes among the candidates.

    Source: Ren et al. 2015, "Faster R-CNN", section 3, arXiv 1506.01497.

    Args:
        proposals: (P, 4), without gradient.
        truth: (G, 4), perhaps none.
        labels: (G,) int64, from 1.
        generator: on the CPU; the draw depends on nothing else.
        count: regions; fewer where there are not as many candidates.
        positive_fraction: share of foreground, at most.
        iou: least overlap of foreground with a true box.
    """
    boxes = torch.cat([proposals, truth])
    if len(truth):
        overlap, match = box_iou(boxes, truth).max(1)
        foreground = overlap >= iou
    else:
        foreground = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        match = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    positive, negative = foreground.nonzero()[:, 0], (~foreground).nonzero()[:, 0]
    positive = _drawn(positive, int(count * positive_fraction), generator)
    negative = _drawn(negative, count - len(positive), generator)
    rows = torch.cat([positive, negative])
    kept = torch.zeros(len(rows), dtype=torch.long, device=boxes.device)
    matches = torch.zeros_like(kept)
    offsets = boxes.new_zeros(len(rows), 4)
    if len(positive):
        matches[: len(positive)] = match[positive]
        kept[: len(positive)] = labels[match[positive]]
        offsets[: len(positive)] = encode_offsets(truth[match[positive]], boxes[positive])
    return Regions(boxes[rows], kept, offsets, matches)


def _drawn(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(rows), generator=generator)[: max(0, count)]
    return rows[order.to(rows.device)]

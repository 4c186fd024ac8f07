"""A class-free region proposal network: how central a place is in its box, and the box (OLN).

# B images, L places of all levels
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image, nms

IGNORED = -1.0  # centerness target of a place that does not count
ANCHOR_SIZE = 8.0  # side of the only anchor, in strides
MIN_IOU = 0.3
MAX_LOG = 4.0  # exp of more would leave any image


class Places(NamedTuple):
    """Places of all levels, in their order."""

    centres: Tensor  # (L, 2) x, y in pixels
    sides: Tensor  # (L,) side of the anchor in pixels
    levels: list[int]  # places of each level


class Proposals(NamedTuple):
    """Proposals of one image, best first."""

    boxes: Tensor  # (P, 4) x1, y1, x2, y2
    scores: Tensor  # (P,) in (0, 1)


class LocalizationRPN(nn.Module):
    """A shared tower over all levels, then centerness and four distances a place.

    A distance is exp(output) times half the anchor's side, so that an output of zero is the anchor.

    Source: Kim et al. 2022, "Learning Open-World Object Proposals without Learning to Classify"
    (OLN), arXiv 2108.06753.

    Args:
        channels: of the pyramid.
        convs: 3x3 convolutions of the tower.
    """

    def __init__(self, channels: int = 256, convs: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.tower = nn.Sequential(*layers)
        self.centerness = nn.Conv2d(channels, 1, 1)
        self.distances = nn.Conv2d(channels, 4, 1)
        for layer in (self.centerness, self.distances):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Centerness logits (B, L), log distances (B, L, 4) as left, top, right, bottom."""
        states = [self.tower(grid) for grid in maps]
        centerness = [self.centerness(s).flatten(1) for s in states]
        distances = [self.distances(s).flatten(2).transpose(1, 2) for s in states]
        return torch.cat(centerness, 1), torch.cat(distances, 1)


def places_of(maps: Sequence[Tensor], strides: Sequence[int]) -> Places:
    """Centres of all cells with the anchor of their level."""
    centres, sides = [], []
    for grid, stride in zip(maps, strides, strict=True):
        h, w = grid.shape[-2:]
        kind = torch.promote_types(
            grid.dtype, torch.float32
        )  # pixels need more than half precision
        y = (torch.arange(h, device=grid.device, dtype=kind) + 0.5) * stride
        x = (torch.arange(w, device=grid.device, dtype=kind) + 0.5) * stride
        yy, xx = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack([xx.flatten(), yy.flatten()], 1))
        sides.append(torch.full((h * w,), ANCHOR_SIZE * stride, device=grid.device, dtype=kind))
    return Places(torch.cat(centres), torch.cat(sides), [len(s) for s in sides])


def boxes_at(places: Places, log_distances: Tensor) -> Tensor:
    """Boxes (..., L, 4) of predicted distances (..., L, 4)."""
    reach = log_distances.clamp(max=MAX_LOG).exp() * (places.sides / 2).unsqueeze(-1)
    low = places.centres - reach[..., :2]
    return torch.cat([low, places.centres + reach[..., 2:]], -1)


def centerness_target(distances: Tensor) -> Tensor:
    """Sqrt of (least over largest) of left and right, times that of top and bottom.

    Source: Tian et al. 2019, "FCOS", equation 3, arXiv 1904.01355.

    Args:
        distances: (..., 4) left, top, right, bottom, > 0.

    >>> float(centerness_target(torch.tensor([1.0, 2.0, 4.0, 2.0])))
    0.5
    """
    pairs = torch.stack([distances[..., [0, 2]], distances[..., [1, 3]]], -2)
    return (pairs.amin(-1) / pairs.amax(-1).clamp(min=1e-9)).prod(-1).sqrt()


def place_targets(places: Places, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Targets of one image.

    A place belongs to the box, among those that it lies in, that overlaps its anchor most; it
    counts where this overlap is at least 0.3 (OLN's), or the best that the box has anywhere.

    Args:
        places: L places.
        truth: (G, 4).

    Returns:
        Centerness (L,), -1 where ignored; boxes (L, 4), all zero where ignored.
    """
    centerness = places.centres.new_full((len(places.centres),), IGNORED)
    boxes = places.centres.new_zeros(len(places.centres), 4)
    if not len(truth):
        return centerness, boxes
    reach = (places.sides / 2)[:, None]
    anchors = torch.cat([places.centres - reach, places.centres + reach], 1)
    low = places.centres[:, None] - truth[None, :, :2]
    high = truth[None, :, 2:] - places.centres[:, None]
    distances = torch.cat([low, high], -1)  # (L, G, 4)
    inside = (distances > 0).all(-1)
    overlap = torch.where(inside, box_iou(anchors, truth), -1.0)
    best, match = overlap.max(1)
    counts = best >= MIN_IOU
    highest = overlap.max(0)
    reached = highest.values > 0
    counts[highest.indices[reached]] = True
    match[highest.indices[reached]] = reached.nonzero()[:, 0]
    rows = counts.nonzero()[:, 0]
    centerness[rows] = centerness_target(distances[rows, match[rows]])
    boxes[rows] = truth[match[rows]]
    return centerness, boxes


def propose(
    logits: Tensor,
    boxes: Tensor,
    places: Places,
    image_size: tuple[int, int],
    *,
    top: int = 1000,
    keep: int = 1000,
    nms_iou: float = 0.7,
    min_size: float = 1.0,
) -> Proposals:
    """Best boxes of one image: top of each level, clipped, without duplicates.

    Args:
        logits: (L,) centerness.
        boxes: (L, 4).
        places: of them.
        image_size: height and width in pixels.
        top: candidates of a level.
        keep: proposals.
        nms_iou: overlap above which the worse one goes; 1: all stay.
        min_size: least side in pixels.
    """
    rows, start = [], 0
    for count in places.levels:
        best = logits[start : start + count].topk(min(top, count)).indices
        rows.append(best + start)
        start += count
    chosen = torch.cat(rows)
    clipped = clip_boxes_to_image(boxes[chosen], image_size)
    scores = logits[chosen].to(clipped.dtype).sigmoid()  # nms takes one dtype; logits may be halves
    large = ((clipped[:, 2:] - clipped[:, :2]) >= min_size).all(1)
    clipped, scores = clipped[large], scores[large]
    order = (
        nms(clipped, scores, nms_iou)
        if nms_iou < 1
        else scores.argsort(descending=True, stable=True)
    )
    return Proposals(clipped[order[:keep]], scores[order[:keep]])

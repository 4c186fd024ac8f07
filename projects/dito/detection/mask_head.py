"""Masks of regions: the head, its targets, and masks on the picture.

# N regions, G true objects
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from common.distributed.differentiable import rank_mean_of_sums

CROP, MASK = 14, 28  # sides of a region's crop and of its mask
STORED = 112  # side of a true mask inside its box
SCALE = 20.0  # of normalised channels
EPS = 1e-12  # below the root of squared norms, as released


class NormalizedConv2d(nn.Conv2d):
    """A convolution of unit vectors: channels of the input and of every weight have norm 1.

    Source: Wang et al. 2021, "Seesaw Loss" (normalised mask layer), arXiv 2008.10032.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H, W); of a 1x1 convolution 20 cosines and the bias."""
        maps: Tensor = self._conv_forward(SCALE * _unit(input), _unit(self.weight), self.bias)
        return maps


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(1, keepdim=True) + EPS).rsqrt()


class MaskHead(nn.Module):
    """A mask of each region, the same for all classes: names without masks in training have one.

    3x3 convolutions, one deconvolution to twice the side, and one output a place.

    Source: He et al. 2017, "Mask R-CNN", section 3, arXiv 1703.06870; class-agnostic and with
    normalised convolutions as in the released detector (google-research, fvlm).

    Args:
        channels: of the crops and of all layers.
        convs: 3x3 convolutions.
    """

    def __init__(self, channels: int = 256, convs: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += [NormalizedConv2d(channels, channels, 3, padding=1), nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels, channels, 2, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers, NormalizedConv2d(channels, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops (N, channels, 14, 14) -> logits (N, 28, 28) of the inside."""
        logits: Tensor = self.layers(crops)
        return logits[:, 0]


def mask_targets(masks: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """What of a true mask lies in each region, (N, 28, 28) in [0, 1].

    Args:
        masks: (N, 112, 112), the mask that belongs to each region, inside its own true box.
        truth: (N, 4), these true boxes.
        regions: (N, 4).
    """
    size = (truth[:, 2:] - truth[:, :2]).clamp(min=1e-6).repeat(1, 2)
    inside = (regions - truth[:, :2].repeat(1, 2)) / size * masks.shape[-1] + 1
    rows = torch.arange(len(masks), device=masks.device)[:, None].to(inside)
    framed = F.pad(masks[:, None].to(inside), (1, 1, 1, 1))  # RoIAlign repeats what is at the edge
    crops: Tensor = roi_align(framed, torch.cat([rows, inside], 1), MASK, aligned=True)
    return crops[:, 0]


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all places of all foreground regions; 0 without a region.

    Args:
        logits: (N, 28, 28).
        targets: (N, 28, 28) in [0, 1].

    Distributed: the mean over ranks is that of all regions.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return rank_mean_of_sums(loss, loss.new_tensor(float(targets.numel())))


def draw_mask(outlines: Sequence[NDArray[np.float64]], box: Sequence[float]) -> Tensor:
    """Polygons as a mask inside a box, (112, 112) bool; what lies outside the box is cut.

    A place is inside where a ray from its centre to the left crosses an outline an odd number of
    times.

    Args:
        outlines: polygons (P, 2) of one object as x, y in the pixels of the box.
        box: x1, y1, x2, y2.
    """
    x0, y0, x1, y1 = box
    scale = STORED / np.maximum([x1 - x0, y1 - y0], 1e-6)
    centres, inside = np.arange(STORED) + 0.5, np.zeros((STORED, STORED), dtype=bool)
    for outline in outlines:
        start = (outline - [x0, y0]) * scale
        end = np.roll(start, -1, axis=0)
        edges, rows = np.nonzero((start[:, 1:] <= centres) != (end[:, 1:] <= centres))
        (xs, ys), (xe, ye) = start[edges].T, end[edges].T
        crossing = xs + (centres[rows] - ys) / (ye - ys) * (xe - xs)
        crossings = np.zeros((STORED, STORED + 1), dtype=int)
        np.add.at(crossings, (rows, np.ceil(crossing - 0.5).clip(0, STORED).astype(int)), 1)
        inside |= crossings.cumsum(1)[:, :-1] % 2 == 1
    return torch.from_numpy(inside)


def paste(mask: Tensor, box: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask (28, 28) of probabilities on its picture: (height, width) bool, inside from .5 on.

    Interpolates between the centres of the mask's places; outside them it is 0, so that a full
    mask fills exactly its box.

    Source: He et al. 2017, "Mask R-CNN", section 3.1, arXiv 1703.06870.
    """
    whole = np.zeros(size, dtype=np.bool_)
    corners = box.double().cpu()
    limit = torch.tensor([size[1], size[0]]).double()
    low = corners[:2].floor().clamp(min=0).minimum(limit)
    high = corners[2:].ceil().minimum(limit).maximum(low)
    x, y = (torch.arange(int(a), int(b)).double() + 0.5 for a, b in zip(low, high, strict=True))
    if not len(x) or not len(y):
        return whole
    side = (corners[2:] - corners[:2]).clamp(min=1e-6)
    xs, ys = (2 * (x - corners[0]) / side[0] - 1, 2 * (y - corners[1]) / side[1] - 1)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
    values = F.grid_sample(mask.double().cpu()[None, None], grid[None], align_corners=False)
    whole[int(low[1]) : int(high[1]), int(low[0]) : int(high[0])] = (values[0, 0] > 0.5).numpy()
    return whole


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (height, width) in COCO's plain run lengths: column by column, first those outside.

    >>> run_lengths(np.array([[False, True], [True, True]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=0)).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts}

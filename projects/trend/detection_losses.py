"""Losses and targets of detectors on bird's-eye-view maps."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from projects.trend.encoders.bev import BevGrid, CenterHead, encode_boxes
from projects.trend.encoders.detector import Detector
from projects.trend.encoders.transfusion_head import QueryOutput


def gaussian_radius(length: Tensor, width: Tensor, overlap: float = 0.1) -> Tensor:
    """Radius (K,) in cells within which a shifted box still overlaps by `overlap`.

    Source: Law & Deng 2018, "CornerNet", section 3.2, arXiv 1808.01244 (the three cases' minimum).

    Args:
        length: (K,) in cells.
        width: (K,) in cells.
        overlap: least intersection over union.
    """
    total, area = length + width, length * width
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    roots = [(b + (b * b - 4 * a * c).clamp_min(0).sqrt()) / 2 for a, b, c in cases]
    return torch.stack(roots).amin(0)


def heat_target(boxes: Tensor, labels: Tensor, grid: BevGrid, num_classes: int) -> Tensor:
    """Heat map (K, H, W): the largest of the Gaussians around the centres of a class, 1 there.

    Source: Yin et al. 2021, "Center-based 3D object detection and tracking", section 4.

    Args:
        boxes: (N, 9).
        labels: (N,) int64.
        grid: cells of the map.
        num_classes: K.
    """
    rows, columns = grid.shape
    heat = boxes.new_zeros(num_classes, rows * columns)
    if len(boxes) == 0:
        return heat.view(num_classes, rows, columns)
    cell = grid.columns(boxes[:, :2]).floor()
    size = boxes[:, 3:5] / boxes.new_tensor(grid.cell)
    radius = gaussian_radius(size[:, 0], size[:, 1]).floor().clamp_min(2)
    sigma = (2 * radius + 1) / 6
    every = torch.arange(rows * columns, device=boxes.device)
    dx = (every % columns)[None] - cell[:, :1]
    dy = (every // columns)[None] - cell[:, 1:2]
    values = (-(dx**2 + dy**2) / (2 * sigma[:, None] ** 2)).exp()
    values = values * ((dx.abs() <= radius[:, None]) & (dy.abs() <= radius[:, None]))
    heat = heat.scatter_reduce(0, labels[:, None].expand_as(values), values, "amax")
    return heat.view(num_classes, rows, columns)


def gaussian_focal(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Penalty-reduced focal loss, summed and divided by the number of centres (at least 1).

    -(1 - p)^alpha log p where the target is 1, -(1 - y)^beta p^alpha log(1 - p) elsewhere.

    Source: Law & Deng 2018, "CornerNet", Eq. 1, arXiv 1808.01244.

    Args:
        logits: any shape.
        target: same shape, in [0, 1].
        alpha: focusing exponent.
        beta: reduces the penalty around centres.
    """
    p = logits.sigmoid()
    at = target == 1
    positive = -((1 - p) ** alpha) * F.logsigmoid(logits)
    negative = -((1 - target) ** beta) * p**alpha * F.logsigmoid(-logits)
    total = torch.where(at, positive, negative).sum()
    return total / at.sum().clamp_min(1)


def sigmoid_focal(
    logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss of independent classes, without reduction.

    Source: Lin et al. 2017, "Focal loss for dense object detection", Eq. 5, arXiv 1708.02002.

    Args:
        logits: any shape.
        target: same shape, 0 or 1.
        alpha: weight of the positives.
        gamma: focusing exponent.
    """
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = torch.where(target > 0, 1 - p, p)
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return weight * miss**gamma * entropy


def detector_losses(
    detector: Detector,
    points: Tensor,
    owner: Tensor,
    boxes: list[Tensor],
    labels: list[Tensor],
    box_weight: float,
) -> dict[str, Tensor]:
    """Terms of a detector's head, and ``loss``: their sum with the box term weighted.

    Args:
        detector: of any head.
        points: (N, 3 + d) of B frames.
        owner: (N,) frame of each point.
        boxes: B times (K, 9), centres inside the map.
        labels: B times (K,).
        box_weight: of the box term.
    """
    out, grid, weights = (
        detector(points, owner, len(boxes)),
        detector.head.grid,
        detector.code_weights,
    )
    if isinstance(detector.head, CenterHead):
        terms = center_losses(out[0], out[1], boxes, labels, grid, weights)
    else:
        terms = query_losses(out, boxes, labels, grid, weights)
    others = sum(v for k, v in terms.items() if k != "box")
    return {"loss": others + box_weight * terms["box"], **terms}


def center_losses(
    heat: Tensor,
    code: Tensor,
    boxes: list[Tensor],
    labels: list[Tensor],
    grid: BevGrid,
    code_weights: Tensor,
) -> dict[str, Tensor]:
    """Heat-map and box terms of a centre head.

    Args:
        heat: (B, K, H, W) logits.
        code: (B, 10, H, W).
        boxes: B times (N, 9), centres inside the map.
        labels: B times (N,).
        grid: cells of the map.
        code_weights: (10,).
    """
    target = torch.stack(
        [heat_target(b, k, grid, heat.shape[1]) for b, k in zip(boxes, labels, strict=True)]
    )
    targets, cells = zip(*(encode_boxes(b, grid) for b in boxes), strict=True)
    owner = torch.repeat_interleave(
        torch.arange(len(boxes), device=heat.device),
        torch.tensor([len(b) for b in boxes], device=heat.device),
    )
    x, y = torch.cat(cells).unbind(1)
    predicted = code[owner, :, y, x]
    box = ((predicted - torch.cat(targets)).abs() * code_weights).sum() / max(1, len(owner))
    return {"heat": gaussian_focal(heat, target), "box": box}


def query_losses(
    out: QueryOutput,
    boxes: list[Tensor],
    labels: list[Tensor],
    grid: BevGrid,
    code_weights: Tensor,
) -> dict[str, Tensor]:
    """Terms of box queries that are matched one to one to the boxes (Hungarian).

    Source: Bai et al. 2022, "TransFusion", section 3.4, arXiv 2203.11496.

    Deviation: the matching cost has a class and a centre-distance term, no box overlap.

    Args:
        out: predictions of Q queries.
        boxes: B times (N, 9).
        labels: B times (N,).
        grid: cells of the map.
        code_weights: (10,).
    """
    target = torch.stack(
        [heat_target(b, k, grid, out.heat.shape[1]) for b, k in zip(boxes, labels, strict=True)]
    )
    classes = torch.zeros_like(out.logits)
    errors, count = out.codes.sum() * 0, 0
    for i, (truth, kind) in enumerate(zip(boxes, labels, strict=True)):
        query, box = match_queries(out, i, truth, kind, grid)
        classes[i, query, kind[box]] = 1
        codes, cell = encode_boxes(truth[box], grid)
        shift = (cell - out.cells[i, query]).to(codes.dtype)  # to the query's own cell
        codes = torch.cat([codes[:, :2] + shift, codes[:, 2:]], dim=1)
        errors = errors + ((out.codes[i, query] - codes).abs() * code_weights).sum()
        count += len(query)
    focal = sigmoid_focal(out.logits, classes).sum() / max(1, count)
    heat = gaussian_focal(out.heat, target)
    return {"heat": heat, "classes": focal, "box": errors / max(1, count)}


@torch.no_grad()
def match_queries(
    out: QueryOutput, sample: int, boxes: Tensor, labels: Tensor, grid: BevGrid
) -> tuple[Tensor, Tensor]:
    """Pairs of query and box indices of one sample with the least total cost."""
    if len(boxes) == 0:
        none = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return none, none
    p = out.logits[sample].sigmoid()[:, labels]
    place = out.cells[sample].to(boxes.dtype) + out.codes[sample, :, :2]
    distance = torch.cdist(place, grid.columns(boxes[:, :2]))
    cost = -p + 0.25 * distance
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    device = boxes.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)

"""Overlap of rotated boxes, and the orientation-aware average precision of ONCE."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from projects.trend.evaluation.average_precision import FrameBoxes

Floats = NDArray[np.floating]
ONCE_THRESHOLDS = {
    "Vehicle": 0.7,
    "Car": 0.7,
    "Bus": 0.7,
    "Truck": 0.7,
    "Pedestrian": 0.3,
    "Cyclist": 0.5,
}
ONCE_SUPERCLASSES = {"Car": "Vehicle", "Bus": "Vehicle", "Truck": "Vehicle"}
NUM_RECALLS = 50


def corners_of(boxes: Floats) -> Floats:
    """Counter-clockwise corners (K, 4, 2) seen from above of boxes (K, 7+)."""
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = signs[None] * boxes[:, None, 3:5]
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = c * local[..., 0] - s * local[..., 1] + boxes[:, None, 0]
    y = s * local[..., 0] + c * local[..., 1] + boxes[:, None, 1]
    return np.stack([x, y], axis=-1)


def overlap_area(first: Floats, second: Floats) -> Floats:
    """Common area (P,) of pairs of convex quadrilaterals (P, 4, 2).

    Its corners are among the corners of one inside the other and the crossings of the edges; they
    are sorted by angle around their mean.
    """
    a, b = first, second
    points = [a, b]
    masks = [_inside(a, b), _inside(b, a)]
    da, db = np.roll(a, -1, axis=1) - a, np.roll(b, -1, axis=1) - b
    p, r = a[:, :, None], da[:, :, None]  # (P, 4, 1, 2)
    q, s = b[:, None], db[:, None]  # (P, 1, 4, 2)
    cross = _cross(r, s)
    safe = np.where(np.abs(cross) < 1e-12, 1.0, cross)
    t, u = _cross(q - p, s) / safe, _cross(q - p, r) / safe
    met = (np.abs(cross) >= 1e-12) & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points.append((p + t[..., None] * r).reshape(len(a), -1, 2))
    masks.append(met.reshape(len(a), -1))
    xy, mask = np.concatenate(points, axis=1), np.concatenate(masks, axis=1)
    count = np.maximum(mask.sum(1), 1)
    middle = (xy * mask[..., None]).sum(1) / count[:, None]
    offset = xy - middle[:, None]
    angle = np.where(mask, np.arctan2(offset[..., 1], offset[..., 0]), np.inf)
    order = angle.argsort(axis=1)
    ring = np.take_along_axis(offset, order[..., None], axis=1)
    kept = np.take_along_axis(mask, order, axis=1)
    ring = np.where(kept[..., None], ring, ring[:, :1])  # the rest closes the ring
    area: Floats = 0.5 * np.abs(_cross(ring, np.roll(ring, -1, axis=1)).sum(1))
    return np.where(mask.sum(1) >= 3, area, 0.0)


def _cross(a: Floats, b: Floats) -> Floats:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _inside(points: Floats, polygon: Floats) -> NDArray[np.bool_]:
    """Whether points (P, 4, 2) lie in counter-clockwise polygons (P, 4, 2), borders included."""
    edge = np.roll(polygon, -1, axis=1) - polygon
    side = _cross(edge[:, None], points[:, :, None] - polygon[:, None])
    return np.asarray((side >= -1e-9).all(axis=2))


def box_iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union (N, M) of upright rotated boxes (N, 7+) and (M, 7+).

    >>> unit = np.array([[0, 0, 0, 2, 2, 2, 0.0]])
    >>> box_iou(unit, unit + np.array([1, 0, 0, 0, 0, 0, 0])).round(4).tolist()
    [[0.3333]]
    """
    n, m = len(first), len(second)
    if n == 0 or m == 0:
        return np.zeros((n, m))
    a, b = corners_of(first).repeat(m, axis=0), np.tile(corners_of(second), (n, 1, 1))
    area = overlap_area(a, b).reshape(n, m)
    top = np.minimum(*((x[:, 2] + x[:, 5] / 2) for x in _pairs(first, second)))
    bottom = np.maximum(*((x[:, 2] - x[:, 5] / 2) for x in _pairs(first, second)))
    common = area * np.clip(top - bottom, 0, None).reshape(n, m)
    volume = first[:, 3:6].prod(1)[:, None] + second[:, 3:6].prod(1)[None]
    iou: Floats = common / np.maximum(volume - common, 1e-9)
    return iou


def _pairs(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    return first.repeat(len(second), axis=0), np.tile(second, (len(first), 1))


def once_metrics(
    predictions: Sequence[FrameBoxes],
    truths: Sequence[FrameBoxes],
    classes: Sequence[str],
    thresholds: Mapping[str, float] = ONCE_THRESHOLDS,
    superclasses: Mapping[str, str] = ONCE_SUPERCLASSES,
) -> dict[str, float]:
    """Average precision of each class over 50 recalls, and the mean over the superclasses.

    A prediction is right if its overlap with a free true box reaches the class's threshold and the
    headings differ by less than 90 degrees. The benchmark merges car, bus and truck into vehicle,
    in which one may be taken for another, and averages vehicle, pedestrian and cyclist.

    Source: Mao et al. 2021, "One million scenes for autonomous driving: ONCE dataset", section 5.1,
    arXiv 2106.11037; superclasses as in the official evaluation's default.

    Args:
        predictions: boxes of F frames.
        truths: true boxes of the same frames.
        classes: names; those without a threshold take 0.5.
        thresholds: least overlap by class.
        superclasses: class -> what it is merged into; classes that are not named stay alone. Empty:
            the mean is one over `classes`.

    Returns:
        ``map``, the mean over the merged classes; ``ap_<class>`` of merged and of single classes;
        and all of them for 0-30, 30-50 and beyond 50 m.
    """
    metrics = {}
    bands = {
        "": (0.0, np.inf),
        "_0_30": (0.0, 30.0),
        "_30_50": (30.0, 50.0),
        "_50_up": (50.0, np.inf),
    }
    merged: dict[str, list[int]] = {}
    for label, name in enumerate(classes):
        merged.setdefault(superclasses.get(name, name), []).append(label)
    single = {name: [label] for label, name in enumerate(classes)}
    for suffix, band in bands.items():
        for name, labels in {**single, **merged}.items():
            hit, count = match_by_overlap(
                predictions, truths, labels, thresholds.get(name, 0.5), band
            )
            metrics[f"ap_{name}{suffix}"] = recall_average(hit, count)
        values = [metrics[f"ap_{name}{suffix}"] for name in merged]
        metrics[f"map{suffix}"] = float(np.mean(values))
    return metrics


def match_by_overlap(
    predictions: Sequence[FrameBoxes],
    truths: Sequence[FrameBoxes],
    labels: Sequence[int],
    threshold: float,
    band: tuple[float, float],
) -> tuple[NDArray[np.bool_], int]:
    """Hits of some classes by falling score, and the true boxes, within a band of distances."""
    scores, hits, count = [], [], 0
    for p, t in zip(predictions, truths, strict=True):
        mine = np.flatnonzero(np.isin(p.labels, labels) & _within(p.boxes, band))
        true = np.flatnonzero(np.isin(t.labels, labels) & _within(t.boxes, band))
        count += len(true)
        mine = mine[np.argsort(-p.scores[mine], kind="stable")]
        iou = box_iou(p.boxes[mine], t.boxes[true])
        turn = p.boxes[mine, 6][:, None] - t.boxes[true, 6][None]
        iou = np.where(np.cos(turn) > 0, iou, 0.0)
        free = np.ones(len(true), dtype=bool)
        for row in iou:  # over the predictions of a frame
            best = int(np.where(free, row, -1.0).argmax()) if len(true) else -1
            right = best >= 0 and free[best] and row[best] >= threshold
            if right:
                free[best] = False
            hits.append(right)
        scores.append(p.scores[mine])
    order = np.argsort(-np.concatenate([*scores, np.zeros(0)]), kind="stable")
    return np.array(hits, dtype=bool)[order], count


def _within(boxes: Floats, band: tuple[float, float]) -> NDArray[np.bool_]:
    distance = np.linalg.norm(boxes[:, :2], axis=1)
    mask: NDArray[np.bool_] = (distance >= band[0]) & (distance < band[1])
    return mask


def recall_average(hit: NDArray[np.bool_], num_truths: int) -> float:
    """Mean over 50 recalls of the best precision at that recall or a higher one."""
    if num_truths == 0 or not hit.any():
        return 0.0
    right = hit.cumsum()
    precision = right / np.arange(1, len(hit) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    levels = np.arange(1, NUM_RECALLS + 1) / NUM_RECALLS
    index = np.searchsorted(right / num_truths, levels - 1e-9)
    values = np.where(index < len(best), best[np.minimum(index, len(best) - 1)], 0.0)
    return float(values.mean())

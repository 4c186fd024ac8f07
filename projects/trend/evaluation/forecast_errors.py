"""Forecast LiDAR scans: the copied scan, chamfer distance, range images, segmentation scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

Floats = NDArray[np.floating]


def copied_ranges(points: Floats, origin: Floats, directions: Floats) -> Floats:
    """Ranges that a scan, held still in the world, shows along rays from another place.

    Every ray takes the range of the point that is nearest in direction.

    Args:
        points: (N, 3+) in the frame of the rays.
        origin: (3,) of the rays.
        directions: (R, 3) unit vectors.
    """
    offset = points[:, :3].astype(np.float64) - origin
    ranges = np.linalg.norm(offset, axis=1)
    kept = ranges > 1e-3
    tree = cKDTree(offset[kept] / ranges[kept, None])
    _, nearest = tree.query(directions)
    copied: Floats = ranges[kept][nearest]
    return copied


def chamfer(first: Floats, second: Floats) -> float:
    """Mean distance to the nearest point of the other set, averaged over both directions.

    >>> chamfer(np.zeros((1, 3)), np.array([[0.0, 3.0, 4.0]]))
    5.0
    """
    there, _ = cKDTree(second[:, :3]).query(first[:, :3])
    back, _ = cKDTree(first[:, :3]).query(second[:, :3])
    return float((there.mean() + back.mean()) / 2)


def range_image(directions: Floats, ranges: Floats, rows: int = 32, columns: int = 180) -> Floats:
    """Nearest range in each cell of elevation x azimuth, NaN where there is none.

    Args:
        directions: (R, 3) unit vectors, seen from the sensor.
        ranges: (R,) metres.
        rows: cells over -25 to +5 degrees, the highest first.
        columns: cells of a turn, forwards in the middle.
    """
    elevation = np.rad2deg(np.arcsin(np.clip(directions[:, 2], -1, 1)))
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    row = np.floor((5 - elevation) / 30 * rows).astype(np.int64)
    column = ((np.pi - azimuth) / (2 * np.pi) * columns).astype(np.int64) % columns
    good = (row >= 0) & (row < rows)
    image = np.full(rows * columns, np.inf)
    np.minimum.at(image, row[good] * columns + column[good], ranges[good])
    filled = np.where(np.isfinite(image), image, np.nan)
    return filled.reshape(rows, columns)


def segmentation_scores(
    predicted: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int
) -> dict[str, float]:
    """Mean intersection over union of the classes that occur, and point accuracy.

    Args:
        predicted: (N,) classes.
        truth: (N,) classes, negative ones are ignored.
        num_classes: C.

    >>> segmentation_scores(np.array([0, 1, 1]), np.array([0, 0, 1]), 3)["miou"]
    0.5
    """
    labelled = truth >= 0
    pairs = truth[labelled] * num_classes + predicted[labelled]
    table = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    right = np.diag(table)
    union = table.sum(0) + table.sum(1) - right
    present = table.sum(1) > 0
    iou = right[present] / np.maximum(union[present], 1)
    return {"miou": float(iou.mean()), "accuracy": float(right.sum() / max(1, table.sum()))}


def scan_figure(rows: Sequence[tuple[str, Floats, Floats, Floats]], limit: float) -> Any:
    """True and rendered scans side by side, seen from above and as range images.

    Args:
        rows: title, origin (3,), directions (R, 3) and ranges (2, R), true ones first, of each
            scan.
        limit: half the edge of the map in metres.

    Returns:
        A matplotlib figure for ``Workspace.figure``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, width_ratios=[1, 1.9, 1.9])
    images = [[range_image(row[2], values) for values in row[3]] for row in rows]
    used = np.flatnonzero(np.isfinite(np.array(images)).any(axis=(0, 1, 3)))
    shown = slice(used[0], used[-1] + 1) if len(used) else slice(None)  # rows that hold a return
    for line, row, pair in zip(axes, rows, images, strict=True):
        title, origin, directions, ranges = row
        for values, colour, size, name in zip(
            ranges, ("0.6", "tab:red"), (9, 2), ("true", "rendered"), strict=True
        ):
            xy = origin[:2] + values[:, None] * directions[:, :2]
            line[0].scatter(xy[:, 0], xy[:, 1], s=size, c=colour, label=name, linewidths=0)
        line[0].plot(*origin[:2], "k^", markersize=4, label="sensor")
        line[0].set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
        line[0].set(ylabel="metres, from above")
        for axis, image, name in zip(
            line[1:], pair, ("true ranges", "rendered ranges"), strict=True
        ):
            colours = axis.imshow(
                image[shown],
                aspect="auto",
                vmin=0,
                vmax=limit,
                cmap="viridis",
                interpolation="nearest",
            )
            axis.set(title=f"{name} (m)", xticks=[], yticks=[])
        figure.colorbar(colours, ax=line[2])
    axes[0, 0].legend(fontsize=7, loc="upper right")
    for axis in axes[-1, 1:]:
        axis.set(xlabel="left - ahead - right, elevation upwards")
    return figure


def scan_overlay(
    origin: Floats, directions: Floats, ranges: Floats, limit: float, size: int = 160
) -> Image.Image:
    """A scan from above: true returns in grey, rendered ones in red over them.

    Args:
        origin: (3,) of the rays.
        directions: (R, 3) unit vectors.
        ranges: (2, R) in metres, true ones first.
        limit: half the edge of the image in metres; x points up, y to the left.
        size: edge of the image in pixels.
    """
    pixels = np.full((size, size, 3), 255, dtype=np.uint8)
    for values, colour in zip(ranges, ((150, 150, 150), (214, 39, 40)), strict=True):
        xy = origin[:2] + values[:, None] * directions[:, :2]
        places = np.floor((limit - xy) / (2 * limit) * size).astype(np.int64)
        places = places[((places >= 0) & (places < size)).all(1)]
        pixels[places[:, 0], places[:, 1]] = colour
    return Image.fromarray(pixels)


def detection_figure(
    points: Floats, predicted: Floats, truth: Floats, limit: float, title: str = ""
) -> Any:
    """Points from above with true (green) and found (red) boxes (K, 7+)."""
    from matplotlib.figure import Figure

    from projects.trend.evaluation.rotated_iou import corners_of

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=1, c="0.6", linewidths=0)
    for boxes, colour in ((truth, "tab:green"), (predicted, "tab:red")):
        ring = corners_of(boxes)[:, [0, 1, 2, 3, 0]]
        axes.plot(ring[..., 0].T, ring[..., 1].T, c=colour, linewidth=1)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", title=title)
    return figure

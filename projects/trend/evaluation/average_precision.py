"""nuScenes detection metrics: mAP over centre distances, true-positive errors, NDS."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
DISTANCES = (0.5, 1.0, 2.0, 4.0)  # metres
TP_DISTANCE = 2.0
MIN_RECALL = MIN_PRECISION = 0.1
RECALLS = np.linspace(0, 1, 101)
ERRORS = ("trans", "scale", "orient", "vel", "attr")  # ATE, ASE, AOE, AVE, AAE
UNDEFINED = {  # what a class has no error of
    "traffic_cone": {"orient", "vel", "attr"},
    "barrier": {"vel", "attr"},
}
HALF_TURN = {"barrier"}  # front and back look alike
RANGES = {  # metres within which boxes of a class are judged (detection_cvpr_2019)
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0),
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0),
    **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
}


class FrameBoxes(NamedTuple):
    """Boxes of one frame, predicted or true.

    Attributes:
        boxes: (K, 9) x, y, z, l, w, h, yaw, vx, vy.
        labels: (K,) index into the classes.
        scores: (K,), not read of true boxes.
        attributes: (K,) attribute names, "" for none; None: none are known.
    """

    boxes: Floats
    labels: NDArray[np.int64]
    scores: Floats
    attributes: Sequence[str] | None = None


class _Matches(NamedTuple):
    """Predictions of one class at one distance, by falling score."""

    hit: NDArray[np.bool_]
    scores: Floats
    pairs: list[tuple[int, int, int]]  # frame, prediction, truth of the hits
    num_truths: int


def nuscenes_metrics(
    predictions: Sequence[FrameBoxes],
    truths: Sequence[FrameBoxes],
    classes: Sequence[str],
    ranges: Mapping[str, float] = RANGES,
) -> dict[str, float]:
    """mAP, NDS, their parts, and the mAP at each centre distance.

    NDS = (5 mAP + sum over ATE, ASE, AOE, AVE, AAE of (1 - min(1, error))) / 10. A class that is
    not found has errors of 1, and the attribute error is 1 where nobody predicts attributes.

    Source: Caesar et al. 2020, "nuScenes: a multimodal dataset for autonomous driving", section
    3.1 (Eqs. 1 to 3), arXiv 1903.11027, and its development kit's constants.

    Args:
        predictions: boxes of F frames.
        truths: true boxes of the same frames, already without those that hold no point.
        classes: names.
        ranges: metres by class; boxes that lie no nearer to the origin of their frame are left out,
            predicted and true ones. Classes of other names have no limit.

    Deviation: the development kit measures the range from the vehicle's origin, here it is that of
    the boxes' frame, the sensor (which nuScenes mounts 0.94 m before it).

    Returns:
        ``map``, ``nds``, ``mate``, ``mase``, ``maoe``, ``mave``, ``maae``, ``map_0.5m`` ...
        ``map_4.0m``, and ``ap_<class>``.

    Raises:
        ValueError: unequal numbers of frames.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predicted and {len(truths)} true frames")
    limits = np.array([ranges.get(name, np.inf) for name in classes])
    predictions, truths = ([_in_range(f, limits) for f in side] for side in (predictions, truths))
    ap: dict[tuple[str, float], float] = {}
    errors: dict[str, list[float]] = {name: [] for name in ERRORS}
    for label, name in enumerate(classes):
        for distance in DISTANCES:
            matches = match_by_centre(predictions, truths, label, distance)
            ap[name, distance] = average_precision(matches.hit, matches.num_truths)
            if distance == TP_DISTANCE:
                class_errors = _errors(matches, predictions, truths, name)
                for key, value in class_errors.items():
                    errors[key].append(value)
    metrics = {f"map_{d}m": float(np.mean([ap[c, d] for c in classes])) for d in DISTANCES}
    metrics |= {f"ap_{c}": float(np.mean([ap[c, d] for d in DISTANCES])) for c in classes}
    metrics["map"] = float(np.mean(list(ap.values())))  # Eq. 1
    means = {k: float(np.mean(v)) if v else 1.0 for k, v in errors.items()}  # Eq. 2
    short = {"trans": "mate", "scale": "mase", "orient": "maoe", "vel": "mave", "attr": "maae"}
    metrics |= {short[k]: v for k, v in means.items()}
    metrics["nds"] = nds(metrics["map"], means)
    return metrics


def _in_range(frame: FrameBoxes, limits: Floats) -> FrameBoxes:
    """The boxes that are nearer than the limit of their class."""
    distance = np.linalg.norm(frame.boxes[:, :2], axis=1)
    kept = np.flatnonzero(distance < limits[frame.labels])
    names = frame.attributes
    attributes = None if names is None else [names[i] for i in kept]
    return FrameBoxes(frame.boxes[kept], frame.labels[kept], frame.scores[kept], attributes)


def nds(mean_ap: float, errors: Mapping[str, float]) -> float:
    """NuScenes detection score of a mAP and the five mean errors.

    >>> nds(1.0, {"trans": 0.0, "scale": 0.0, "orient": 0.0, "vel": 0.0, "attr": 1.0})
    0.9
    """
    return float((5 * mean_ap + sum(1 - min(1.0, e) for e in errors.values())) / 10)  # Eq. 3


def match_by_centre(
    predictions: Sequence[FrameBoxes], truths: Sequence[FrameBoxes], label: int, distance: float
) -> _Matches:
    """Each prediction, by falling score, takes the nearest free true box closer than `distance`."""
    rows = [
        (float(p.scores[i]), frame, i)
        for frame, p in enumerate(predictions)
        for i in np.flatnonzero(p.labels == label)
    ]
    rows.sort(key=lambda row: -row[0])
    rows_of_label = [np.flatnonzero(t.labels == label) for t in truths]
    free = [np.ones(len(index), dtype=bool) for index in rows_of_label]
    hit = np.zeros(len(rows), dtype=bool)
    pairs = []
    for number, (_, frame, i) in enumerate(rows):
        if not free[frame].any():
            continue
        centre = predictions[frame].boxes[i, :2]
        gaps = np.linalg.norm(truths[frame].boxes[rows_of_label[frame], :2] - centre, axis=1)
        gaps = np.where(free[frame], gaps, np.inf)
        best = int(gaps.argmin())
        if gaps[best] < distance:
            free[frame][best], hit[number] = False, True
            pairs.append((frame, i, int(rows_of_label[frame][best])))
    scores = np.array([row[0] for row in rows])
    return _Matches(hit, scores, pairs, sum(len(index) for index in rows_of_label))


def average_precision(hit: NDArray[np.bool_], num_truths: int) -> float:
    """Area above precision 0.1 and recall 0.1, scaled to [0, 1].

    Args:
        hit: (P,) whether each prediction is right, by falling score.
        num_truths: true boxes.
    """
    if num_truths == 0 or not hit.any():
        return 0.0
    right = hit.cumsum()
    precision = right / np.arange(1, len(hit) + 1)
    at = np.interp(RECALLS, right / num_truths, precision, right=0)
    above = np.clip(at[round(100 * MIN_RECALL) + 1 :] - MIN_PRECISION, 0, None)
    return float(above.mean() / (1 - MIN_PRECISION))


def _errors(
    matches: _Matches,
    predictions: Sequence[FrameBoxes],
    truths: Sequence[FrameBoxes],
    name: str,
) -> dict[str, float]:
    """Errors of one class: means up to each score, averaged over the recalls above 0.1."""
    keys = [key for key in ERRORS if key not in UNDEFINED.get(name, set())]
    if not matches.pairs or matches.num_truths == 0:
        return dict.fromkeys(keys, 1.0)
    recall = matches.hit.cumsum() / matches.num_truths
    confidence = np.interp(RECALLS, recall, matches.scores, right=0)
    reached = np.flatnonzero(confidence)
    last, first = (int(reached[-1]) if len(reached) else 0), round(100 * MIN_RECALL) + 1
    if last < first:
        return dict.fromkeys(keys, 1.0)
    values = _pair_errors(
        matches.pairs, predictions, truths, np.pi if name in HALF_TURN else 2 * np.pi
    )
    scores = matches.scores[matches.hit]
    errors = {}
    for key in keys:
        if values[key] is None:
            errors[key] = 1.0
            continue
        curve = _running_mean(values[key])
        at = np.interp(confidence[::-1], scores[::-1], curve[::-1])[::-1]
        errors[key] = float(at[first : last + 1].mean())
    return errors


def _running_mean(values: Floats) -> Floats:
    """Mean of the values so far that are numbers; 0 before the first one, 1 if none is a number."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.ones(len(values))
    total, count = np.where(defined, values, 0).cumsum(), defined.cumsum()
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)


def _pair_errors(
    pairs: Sequence[tuple[int, int, int]],
    predictions: Sequence[FrameBoxes],
    truths: Sequence[FrameBoxes],
    period: float,
) -> dict[str, Floats]:
    p = np.stack([predictions[f].boxes[i] for f, i, _ in pairs])
    t = np.stack([truths[f].boxes[j] for f, _, j in pairs])
    smaller = np.minimum(p[:, 3:6], t[:, 3:6]).prod(1)
    joint = p[:, 3:6].prod(1) + t[:, 3:6].prod(1) - smaller
    turn = (p[:, 6] - t[:, 6] + period / 2) % period - period / 2
    errors = {
        "trans": np.linalg.norm(p[:, :2] - t[:, :2], axis=1),
        "scale": 1 - smaller / joint,
        "orient": np.abs(turn),
        "vel": np.linalg.norm(p[:, 7:9] - t[:, 7:9], axis=1),
        "attr": np.ones(len(pairs)),
    }
    names = [(predictions[f].attributes, truths[f].attributes, i, j) for f, i, j in pairs]
    if all(a is not None and b is not None for a, b, _, _ in names):
        errors["attr"] = np.array(
            [np.nan if b[j] == "" else float(a[i] != b[j]) for a, b, i, j in names]  # type: ignore[index]
        )
    return errors

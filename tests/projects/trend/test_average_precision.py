"""Detection metrics on hand-made boxes (item 17), scan scores."""

import numpy as np
import pytest

from projects.trend.evaluation.average_precision import (
    FrameBoxes,
    average_precision,
    nds,
    nuscenes_metrics,
)
from projects.trend.evaluation.forecast_errors import (
    chamfer,
    copied_ranges,
    range_image,
    segmentation_scores,
)
from projects.trend.evaluation.rotated_iou import (
    box_iou,
    once_metrics,
    overlap_area,
    recall_average,
)


def boxes(*rows):
    """Rows x, y, yaw, vx -> boxes of 4 x 2 x 1.5 m."""
    full = [[x, y, 0, 4, 2, 1.5, yaw, vx, 0] for x, y, yaw, vx in rows]
    return np.array(full, dtype=np.float64).reshape(-1, 9)


def frame(rows, scores=None, labels=None, attributes=None):
    count = len(rows)
    return FrameBoxes(
        boxes(*rows),
        np.array(labels if labels is not None else [0] * count, dtype=np.int64),
        np.array(scores if scores is not None else [1.0] * count),
        attributes,
    )


def test_item_17_perfect_boxes():
    """Item 17: mAP 1, no error; NDS 0.9 without attributes and 1 with them."""
    rows = [(10, 0, 0.1, 3), (-5, 4, 1.0, 0), (0, 20, 2.0, 1)]
    same = [frame(rows)]
    actual = nuscenes_metrics(same, same, ["car"])
    assert actual["map"] == pytest.approx(1.0)
    assert [actual[k] for k in ("mate", "mase", "maoe", "mave", "maae")] == [0, 0, 0, 0, 1]
    assert actual["nds"] == pytest.approx(0.9)
    named = [frame(rows, attributes=["moving", "", "parked"])]
    assert nuscenes_metrics(named, named, ["car"])["nds"] == pytest.approx(1.0)


def test_item_17_a_box_counts_within_its_distance_only():
    """Item 17: shifted by 1.5 m it is found at 2 and 4 m, not at 0.5 and 1 m."""
    true = [frame([(10, 0, 0, 0)])]
    actual = nuscenes_metrics([frame([(11.5, 0, 0, 0)])], true, ["car"])
    assert [actual[f"map_{d}m"] for d in (0.5, 1.0, 2.0, 4.0)] == pytest.approx([0, 0, 1, 1])
    assert actual["map"] == pytest.approx(0.5)
    assert actual["mate"] == pytest.approx(1.5)
    assert actual["nds"] == pytest.approx(nds(0.5, {"a": 1.5, "b": 0, "c": 0, "d": 0, "e": 1}))


def test_item_17_average_precision_by_hand():
    """Item 17: hit, miss, hit of two: precision 1 up to recall 1/2, then 2/3 at recall 1."""
    value = average_precision(np.array([True, False, True]), 2)
    recalls = np.linspace(0, 1, 101)[11:]
    precision = np.interp(recalls, [0.5, 0.5, 1.0], [1.0, 0.5, 2 / 3])
    assert value == pytest.approx((precision - 0.1).mean() / 0.9)
    late = np.clip(0.5 * recalls - 0.1, 0, None).mean() / 0.9  # precision 1/2 at recall 1, 0 at 0
    assert average_precision(np.array([False, True]), 1) == pytest.approx(late)
    assert average_precision(np.zeros(0, dtype=bool), 3) == 0
    low = average_precision(np.array([True]), 20)  # recall 0.05 is below the least one
    assert low == 0


def test_item_17_matching_is_greedy_by_score_and_one_to_one():
    """Item 17: the better score takes the box; the second one is a false positive."""
    true = [frame([(0, 0, 0, 0)])]
    near_late = nuscenes_metrics(
        [frame([(0.9, 0, 0, 0), (0.1, 0, 0, 0)], [0.9, 0.5])], true, ["car"]
    )
    assert near_late["mate"] == pytest.approx(0.9)
    # recall 1 is reached by the first one; at the very end the precision is 1/2 (89 + 1/2 of 90)
    assert near_late["map_1.0m"] == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9)
    assert near_late["map_0.5m"] < 0.3
    other_frame = [frame([]), frame([(0, 0, 0, 0)])]
    missed = nuscenes_metrics([frame([(0, 0, 0, 0)]), frame([])], other_frame, ["car"])
    assert missed["map"] == 0
    assert missed["nds"] == 0


def test_item_17_errors_of_orientation_size_and_speed():
    true = [frame([(0, 0, 0.0, 2)])]
    turned = boxes((0, 0, 2 * np.pi - 0.5, 5))
    turned[0, 3] = 8
    actual = nuscenes_metrics(
        [FrameBoxes(turned, np.zeros(1, dtype=np.int64), np.ones(1))], true, ["car"]
    )
    assert actual["maoe"] == pytest.approx(0.5)
    assert actual["mave"] == pytest.approx(3.0)
    assert actual["mase"] == pytest.approx(0.5)
    half = [frame([(0, 0, np.pi - 0.1, 2)])]
    assert nuscenes_metrics(half, true, ["barrier"])["maoe"] == pytest.approx(0.1)
    assert nuscenes_metrics(half, true, ["car"])["maoe"] == pytest.approx(np.pi - 0.1)


def test_classes_count_equally_and_missing_ones_as_zero():
    true = [frame([(0, 0, 0, 0), (9, 9, 0, 0)], labels=[0, 1])]
    actual = nuscenes_metrics([frame([(0, 0, 0, 0)])], true, ["car", "bus"])
    assert actual["map"] == pytest.approx(0.5)
    assert (actual["ap_car"], actual["ap_bus"]) == pytest.approx((1.0, 0.0))
    assert actual["mate"] == pytest.approx(0.5)  # a class that is not found has errors of 1
    with pytest.raises(ValueError, match="frames"):
        nuscenes_metrics([], true, ["car"])


def test_rotated_overlap_by_hand():
    a = boxes((0, 0, 0, 0))
    assert box_iou(a, boxes((2, 0, 0, 0)))[0, 0] == pytest.approx(4 / 12)
    assert box_iou(a, boxes((0, 0, np.pi / 2, 0)))[0, 0] == pytest.approx(4 / 12)
    assert box_iou(a, boxes((0, 0, np.pi, 0), (9, 0, 0, 0)))[0] == pytest.approx([1, 0])
    above = boxes((0, 0, 0, 0)) + np.array([0, 0, 0.75, 0, 0, 0, 0, 0, 0])
    assert box_iou(a, above)[0, 0] == pytest.approx(1 / 3)
    square = np.array([[[1, 1], [-1, 1], [-1, -1], [1, -1.0]]])
    c = np.sqrt(0.5)
    turned = square @ np.array([[c, c], [-c, c]])
    assert overlap_area(square, turned)[0] == pytest.approx(8 * (np.sqrt(2) - 1))
    assert box_iou(a[:0], a).shape == (0, 1)


def test_once_average_precision():
    """Overlap 1/2 is enough for a pedestrian, not for a car; a reversed heading never is."""
    true = [frame([(0, 0, 0, 0), (40, 0, 0, 0)])]
    near = [frame([(4 / 3, 0, 0, 0), (40, 0, 0, 0)], [0.9, 0.8])]  # overlap 1/2
    assert once_metrics(near, true, ["Pedestrian"])["map"] == pytest.approx(1.0)
    car = once_metrics(near, true, ["Car"])
    assert car["ap_Car"] == pytest.approx(0.25)  # half of the recalls at precision 1/2
    assert (car["ap_Car_0_30"], car["ap_Car_30_50"], car["ap_Car_50_up"]) == (0, 1, 0)
    back = [frame([(0, 0, np.pi, 0), (40, 0, 0, 0)])]
    assert once_metrics(back, true, ["Car"])["ap_Car"] < 1
    assert recall_average(np.array([True, False]), 1) == 1


def test_once_takes_car_bus_and_truck_for_one_class():
    """A bus that is called a car is a vehicle that was found; the mean is over three classes."""
    names = ["Car", "Bus", "Truck", "Pedestrian", "Cyclist"]
    rows = [(0, 0, 0, 0), (10, 0, 0, 0), (20, 0, 0, 0), (0, 10, 0, 0), (0, 20, 0, 0)]
    true = [frame(rows, labels=range(5))]
    called = [frame(rows, labels=[0, 0, 2, 3, 4])]
    actual = once_metrics(called, true, names)
    assert actual["map"] == pytest.approx(1.0)
    values = {name: actual[f"ap_{name}"] for name in ("Vehicle", *names)}
    expected = {"Vehicle": 1, "Car": 1, "Bus": 0, "Truck": 1, "Pedestrian": 1, "Cyclist": 1}
    assert values == pytest.approx(expected)  # single classes stay apart
    apart = once_metrics(called, true, names, superclasses={})
    assert apart["map"] == pytest.approx(0.8)
    assert "ap_Vehicle" not in apart
    missed = once_metrics([frame(rows[:4], labels=[0, 1, 2, 3])], true, names)
    assert missed["map"] == pytest.approx(2 / 3)
    assert once_metrics(true, true, ["Vehicle", "Pedestrian"])["map"] == pytest.approx(1)  # Waymo's


def test_boxes_beyond_the_range_of_their_class_do_not_count():
    """Pedestrians are judged within 40 m, cars within 50, cones within 30; both sides alike."""
    rows = [(10, 0, 0, 0), (0, 45, 0, 0)]
    true = [frame(rows, labels=[0, 0], attributes=["standing", "moving"])]
    near = [frame(rows[:1], attributes=["standing"])]
    actual = nuscenes_metrics(near, true, ["pedestrian"])
    assert (actual["map"], actual["nds"]) == pytest.approx((1.0, 1.0))
    assert nuscenes_metrics(near, true, ["car"])["map"] < 0.5
    assert nuscenes_metrics(near, true, ["pedestrian"], ranges={})["map"] < 0.5
    false = [frame(rows, [0.5, 0.9], labels=[0, 0])]  # the far one would come first
    assert nuscenes_metrics(false, [frame(rows[:1])], ["pedestrian"])["map"] == pytest.approx(1.0)
    assert nuscenes_metrics(false, [frame(rows[:1])], ["car"])["map"] < 0.6
    for name, limit in (("car", 50), ("bicycle", 40), ("barrier", 30), ("traffic_cone", 30)):
        at, before = (frame([(x, 0, 0, 0)]) for x in (limit, limit - 0.1))
        assert nuscenes_metrics([at], [at], [name])["map"] == 0  # nothing is left to be found
        assert nuscenes_metrics([before], [before], [name])["map"] == pytest.approx(1.0)


def test_scan_scores():
    points = np.array([[5.0, 0, 0], [0, 7.0, 0]])
    rays = np.array([[1.0, 0.01, 0], [0.0, 1, 0]])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    assert copied_ranges(points, np.zeros(3), rays).tolist() == [5, 7]
    assert copied_ranges(points, np.array([1.0, 0, 0]), rays[:1]).tolist() == [4]
    assert chamfer(points, points) == 0
    image = range_image(rays, np.array([5.0, 7.0]), rows=6, columns=8)
    assert np.nanmin(image) == 5
    assert np.isfinite(image).sum() == 2
    scores = segmentation_scores(np.array([0, 1, 2, 2]), np.array([0, 1, 1, -1]), 3)
    assert scores == {"miou": pytest.approx((1 + 0.5) / 2), "accuracy": pytest.approx(2 / 3)}

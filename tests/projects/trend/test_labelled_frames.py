"""What detectors are given of labelled frames."""

import numpy as np
import pytest

from common.config import UserError
from projects.trend.evaluation.average_precision import FrameBoxes, nuscenes_metrics
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.boxes import BoxesInGrid, LabelledFrames, labelled_frames
from projects.trend.scans.options import LidarData, PlanarAugment
from projects.trend.scans.sequences import FrameLists, LidarFrame

SELECT = BoxesInGrid(LidarData(), ["car"])
STILL = PlanarSimilarity()


def frame_of(boxes, num_points):
    """Cars, and a point in the centre of each."""
    boxes = np.array(boxes, dtype=np.float32)
    points = np.c_[boxes[:, :3], np.full(len(boxes), 0.5)].astype(np.float32)
    return LidarFrame(points, np.eye(4), 0.0, boxes, ("car",) * len(boxes), np.array(num_points))


def car(x, y, vx=0.0, vy=0.0):
    return [x, y, 0, 4, 2, 1.5, 0.3, vx, vy]


def test_a_share_of_the_frames_is_evenly_spaced():
    data = FrameLists([[frame_of([car(5, 0)], [1])] * 3, [frame_of([car(5, 0)], [1])] * 5])
    assert labelled_frames(data, 4) == [(0, 0), (0, 2), (1, 1), (1, 3)]
    assert len(labelled_frames(data, 0)) == len(labelled_frames(data, 9)) == 8


def test_boxes_without_a_point_are_out():
    """Those of unknown counts (-1) are in."""
    frame = frame_of([car(5, 0), car(9, 0), car(13, 0)], [3, 0, -1])
    assert SELECT(frame, STILL)["boxes"][:, 0].tolist() == [5, 13]


def test_boxes_are_moved_with_their_points():
    data = FrameLists([[frame_of([car(9, -4), car(-6, 2)], [1, 1])]])
    augment = PlanarAugment(rotation=60.0, scale=(0.9, 1.1), flip_y_prob=0.5)
    samples = LabelledFrames(data, [(0, 0)], SELECT, augment, seed=0)
    for epoch in range(4):
        batch = samples[[(0, epoch)]]
        np.testing.assert_allclose(batch["boxes"][0][:, :3], batch["points"][:, :3], atol=1e-5)
        assert abs(float(batch["points"][0, 0]) - 9) > 1e-3


def test_an_unknown_velocity_is_a_target_of_zero_and_no_error():
    """The known one is missed by 1 m/s; what is predicted of the unknown one does not count."""
    frame = frame_of([car(5, 0, 2, 0), car(15, 0, np.nan, np.nan)], [1, 1])
    samples = LabelledFrames(FrameLists([[frame]]), [(0, 0)], SELECT, PlanarAugment(), seed=0)
    assert samples[[(0, 0)]]["boxes"][0][:, 7:].tolist() == [[2, 0], [0, 0]]
    truth = SELECT(frame, STILL)
    actual = truth["boxes"].astype(np.float64)
    actual[:, 7:] = [[3, 0], [7, 0]]
    scores, labels = np.array([0.9, 0.8]), truth["labels"]
    metrics = nuscenes_metrics(
        [FrameBoxes(actual, labels, scores)], [FrameBoxes(truth["boxes"], labels, scores)], ["car"]
    )
    assert metrics["mave"] == pytest.approx(1.0)


class Damaged(FrameLists):
    """A set whose frame 1 cannot be read."""

    def frame(self, sequence, index):
        if index == 1:
            raise ValueError("values are not finite")
        return super().frame(sequence, index)


def test_in_place_of_a_damaged_frame_comes_the_next_one(caplog):
    """Counted and logged; where none can be read the run stops."""
    data = Damaged([[frame_of([car(5 + i, 0)], [1]) for i in range(3)]])
    samples = LabelledFrames(data, [(0, 0), (0, 1), (0, 2)], SELECT, PlanarAugment(), seed=0)
    batch = samples[[(0, 0), (1, 0)]]
    assert batch["ids"].tolist() == [0, 2]
    assert batch["skipped"] == 1
    assert len(batch["boxes"]) == 2
    assert "(0, 1): values are not finite" in caplog.text
    assert samples[[(0, 0), (2, 0)]]["skipped"] == 0
    with pytest.raises(UserError, match="8 samples from number 0 on cannot be read"):
        LabelledFrames(data, [(0, 1)], SELECT, PlanarAugment(), seed=0)[[(0, 0)]]

"""References, parts and draws of the evaluation and the samples: what they are given."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.config import UserError
from common.engine.callbacks import step_seed
from projects.trend import baselines, data, evaluate, finetune, forecasts, probes
from projects.trend import module as method
from projects.trend.data import ForecastSamples, build_data, candidates, in_first_frame
from projects.trend.evaluate import detection, forecast_metrics, held_sets, judged
from projects.trend.module import Trend
from projects.trend.scans.augment import PlanarSimilarity
from projects.trend.scans.sequences import LidarFrame
from projects.trend.sources import open_source
from tests.projects.trend.conftest import batch_of, config, module_of


def test_the_untrained_reference_begins_as_the_training_and_is_probed_too(monkeypatch):
    starts, probed = [], []
    plain = SimpleNamespace(encoder="untrained")
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(
        evaluate, "untrained", lambda build, seed, like: starts.append(seed) or plain
    )
    monkeypatch.setattr(evaluate, "held_sets", lambda cfg: ())
    monkeypatch.setattr(
        evaluate, "segmentation_probe", lambda cfg, encoder: probed.append(encoder) or {}
    )
    module = SimpleNamespace(network=SimpleNamespace(encoder="trained"))
    cfg = config("eval.untrained=true", "eval.segmentation_frames=2", "seed=5")
    evaluate.evaluate(cfg, module, None)
    assert starts == [step_seed(5, 0, 0, 0)]
    assert probed == ["trained", "untrained"]


def test_a_given_encoder_forecasts_nothing(monkeypatch):
    monkeypatch.setattr(evaluate, "evaluated", lambda *_: nullcontext())
    monkeypatch.setattr(evaluate, "held_sets", lambda cfg: [("", [])])
    monkeypatch.setattr(evaluate, "forecast_metrics", lambda *_: {"x": 1.0})
    module = SimpleNamespace(network=None)
    cfg = config("eval.untrained=false", "eval.segmentation_frames=0")
    assert evaluate.evaluate(cfg, module, None) == {"x": 1}
    cfg.finetune.encoder_weights = "x"
    assert evaluate.evaluate(cfg, module, None) == {}


def test_the_bundled_clip_has_rays_and_steps_of_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "held_out", lambda cfg, source, *args: asked.append(args[:2]))
    cfg = config("eval.rays=10", "eval.clip_rays=20", "eval.clip_step=3")
    cfg.data.sources = ["simulated", "kitti_clip"]
    assert [prefix for prefix, _ in held_sets(cfg)] == ["", "kitti_"]
    assert asked == [(10, 1), (20, 3)]


def test_items_are_of_future_frames(monkeypatch):
    asked = []
    monkeypatch.setattr(
        evaluate, "window_errors", lambda held, errors, ahead, moving: asked.append([*ahead])
    )
    monkeypatch.setattr(evaluate, "summary", lambda *_: {})
    judged([], [], 3, None, "")
    assert asked == [[1, 2, 3]] * 2


def test_references_are_other_networks_and_other_actions(monkeypatch):
    asked, chamfers, frames = [], [], []

    def errors_of(cfg, network, held, kind=None):
        asked.append((network.name, kind))
        value = {None: 1.0, "zero": 3.0, "shuffled": 4.0}[kind]
        return SimpleNamespace(ranges=value, intensity="intensity", opacity=0.5)

    def window_errors(held, errors, ahead):
        frames.append([*ahead])
        return [2.0]

    monkeypatch.setattr(evaluate, "errors_of", errors_of)
    monkeypatch.setattr(evaluate, "judged", lambda *_: {"forecast_l1": 1.0})
    monkeypatch.setattr(evaluate, "window_errors", window_errors)
    monkeypatch.setattr(evaluate, "chamfer_of", lambda held, errors, k: chamfers.append(k) or k)
    monkeypatch.setattr(evaluate, "copy_errors", lambda held: 7.0)
    monkeypatch.setattr(evaluate, "summary", lambda held, errors, n: {"forecast_l1": errors})
    network, plain = (SimpleNamespace(name=n, forecasts=True) for n in ("trained", "untrained"))
    cfg = config("eval.horizon=2", "eval.figures=false")
    metrics = forecast_metrics(cfg, network, plain, [1, 2], None, "")
    assert asked == [
        ("trained", None),
        ("untrained", None),
        ("trained", "zero"),
        ("trained", "shuffled"),
    ]
    assert (frames, chamfers) == ([[0]], [1, 2])
    assert metrics["chamfer_t2"] == 2
    assert (metrics["zero_actions_change"], metrics["shuffled_actions_change"]) == (2, 3)


def test_the_gain_is_over_the_detector_from_scratch(monkeypatch):
    values = {"pretrained": 0.5, "scratch": 0.3}
    monkeypatch.setattr(evaluate, "test_frames", lambda cfg: [])
    monkeypatch.setattr(
        evaluate, "detection_metrics", lambda cfg, detector, frames: ({"map_2.0m": detector}, None)
    )
    module = SimpleNamespace(detectors=values)
    metrics = detection(config("eval.figures=false"), module, None)
    assert metrics["map_2.0m_gain"] == pytest.approx(0.2)


def test_test_points_are_standardised_as_the_points_that_are_learnt_from(monkeypatch):
    """Classes are at 0 and 2; both test points are of the second class."""
    cfg = config("data.sources=[simulated]", "eval.segmentation_frames=1", "eval.split=dev")
    points = {
        "labelled": (torch.tensor([[0.0], [0.0], [2.0], [2.0]]), torch.tensor([0, 0, 1, 1])),
        "dev": (torch.tensor([[2.0], [3.0]]), torch.tensor([1, 1])),
    }
    monkeypatch.setattr(
        probes, "open_source", lambda cfg, name, part: SimpleNamespace(frame=lambda: part)
    )
    monkeypatch.setattr(probes, "labelled_frames", lambda data, count: [()] * count)
    monkeypatch.setattr(probes, "_points_of", lambda frames, cfg, encoder: points[frames[0]])
    assert probes.segmentation_probe(cfg, None)["accuracy"] == 1


class Source:
    """Frames of one point; poses advance by their number."""

    def frame(self, sequence, number):
        return SimpleNamespace(points=np.array([[1.0, 2.0, 3.0, 0.5]]), pose=self.pose(0, number))

    def pose(self, sequence, number):
        pose = np.eye(4)
        pose[0, 3] = number
        return pose


class Turned:
    """Negates everything."""

    matrix = -np.eye(3)

    def points(self, points):
        return np.concatenate([-points[:, :3], points[:, 3:]], 1)

    def actions(self, actions):
        return -actions


ITEM = SimpleNamespace(source=0, sequence=0, first=4, stride=2)
RNG = np.random.default_rng(0)


def test_a_sample_is_augmented_and_masked_as_a_whole(monkeypatch):
    asked = []
    section = config("data.mask_rate=0.4", "data.low=[-9,-9,-9]", "data.high=[9,9,9]").data
    samples = ForecastSamples([Source()], [ITEM], section, 2, 0.5, 0)
    assert samples.probabilities[0] > samples.probabilities[1]
    monkeypatch.setattr(data, "draw_similarity", lambda *_: Turned())
    monkeypatch.setattr(data, "frame_rays", lambda *_: {})

    def block_mask(points, low, voxel, block, rate, rng):
        asked.append(rate)
        return np.ones(len(points), dtype=bool)

    monkeypatch.setattr(data, "block_mask", block_mask)
    sample = samples.sample(0, np.random.default_rng(0))
    assert sample["points"][0, :3].tolist() == [-1, -2, -3]
    assert sample["actions"][:, 0].tolist() == [-2, -2]  # two frames apart
    assert asked == [0.4]


def test_the_sensor_is_augmented_with_its_points():
    frame = Source().frame(0, 6)
    points, origin = in_first_frame(Source(), ITEM, 1, frame, Turned())
    assert points[0, :3].tolist() == [-3, -2, -3]
    assert origin.tolist() == [-2, 0, 0]


def test_ground_is_that_of_the_frame_itself(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "above_ground", lambda points, *_: asked.append(points) or np.ones(1, dtype=bool)
    )
    section = config("data.ground_threshold=0.2", "data.low=[-9,-9,-9]", "data.high=[9,9,9]").data
    raw, moved = np.zeros((1, 4)), np.ones((1, 4))
    candidates(raw, moved, section)
    assert asked[0] is raw


def test_rays_are_drawn_as_the_config_says(monkeypatch):
    asked = []

    def choose(points, count, rng, sampling):
        asked.append((count, sampling))
        return np.array([0])

    monkeypatch.setattr(data, "choose", choose)
    monkeypatch.setattr(data, "candidates", lambda *_: np.array([0]))
    monkeypatch.setattr(data, "elapsed", lambda *_: 0.0)
    section = config().data
    section.sampling = "ranges"
    data.frame_rays(Source(), ITEM, 1, Turned(), section, 3, None)
    assert asked == [(3, "ranges")]


def test_all_stages_have_the_windows_of_the_longest_horizon(monkeypatch):
    asked = []
    monkeypatch.setattr(
        data, "windows", lambda number, source, ahead, stride: asked.append(ahead) or []
    )
    cfg = config()
    build_data(cfg, [None] * len(cfg.data.sources), 0)
    assert set(asked) == {cfg.frames_ahead}
    assert cfg.frames_ahead > 0


@pytest.mark.parametrize(("unit", "scaled"), [("scaled", True), ("metres", False)])
def test_errors_of_ranges_are_in_the_unit_of_the_config(monkeypatch, unit, scaled):
    asked = []
    terms = method.frame_terms

    def watched(scan, ranges, intensity, factor):
        asked.append(factor)
        return terms(scan, ranges, intensity, factor)

    monkeypatch.setattr(method, "frame_terms", watched)
    module = module_of()
    module.method.range_unit = unit
    module.losses(batch_of())
    assert (asked[0] == module.network.field.scale) == scaled
    assert (asked[0] == 1) != scaled


@pytest.mark.parametrize("training", [True, False])
def test_samples_on_a_ray_move_in_training_alone_and_actions_are_those_of_the_arm(
    monkeypatch, training
):
    asked = []
    module = module_of("method.jitter=true", "method.actions=zero").train(training)
    render, recurrent = module.network.render, module.network.recurrent.forward

    def rendered(*args, jitter, chunk):
        asked.append(jitter)
        return render(*args, jitter=jitter, chunk=chunk)

    def forecast(volume, actions, steps):
        asked.append(bool(actions.any()))
        return recurrent(volume, actions, steps)

    monkeypatch.setattr(module.network, "render", rendered)
    monkeypatch.setattr(module.network.recurrent, "forward", forecast)
    module.render(batch_of())
    assert asked == [False, training]


def test_the_sharpness_has_its_own_rate_and_a_first_stage_no_recurrence():
    module = module_of("method.sharpness_lr_scale=0.25")
    assert module.parameter_groups()[-1]["lr_scale"] == 0.25
    first = Trend(config(), module.network, horizon=0)
    assert not any(p.requires_grad for p in first.network.recurrent.parameters())


class Numbered(Source):
    """Ten frames; each has its number as time."""

    lengths = (10,)

    def time(self, sequence, number):
        return float(number)


def test_frames_actions_and_times_are_a_stride_apart():
    section = config("data.ground_threshold=-1", "data.rotation=0").data
    rays = data.frame_rays(Numbered(), ITEM, 2, PlanarSimilarity(), section, 1, RNG)
    assert (rays["origin"].tolist(), rays["time"]) == ([4, 0, 0], 4)
    assert data.window_actions(Numbered(), ITEM, 3).tolist() == [[2, 0, 0]] * 3


@pytest.mark.parametrize(("threshold", "expected"), [(-1, [0, 1]), (0, [1]), (3.5, [])])
def test_the_ground_is_in_rays_only_below_a_threshold_of_zero(threshold, expected):
    section = config(f"data.ground_threshold={threshold}", "data.sensor_height=2").data
    points = np.array([[1.0, 1, -2.1], [1, 1, 1]])
    assert candidates(points, points, section).tolist() == expected


def test_windows_are_evenly_spaced_and_judged_at_the_stride_of_their_set(monkeypatch):
    """The copied scan is whole: a return beyond the grid may be what a later ray ends on."""

    class Scans(Numbered):
        lengths = (30,)

        def frame(self, sequence, number):
            points = np.array([[5.0, 0, 0, 0.5], [900.0, 1, 0, 0.1]], np.float32)
            pose = self.pose(0, number)
            return LidarFrame(points, pose, float(number))

    copied = []
    monkeypatch.setattr(forecasts, "open_source", lambda *_: Scans())
    monkeypatch.setattr(
        forecasts, "copied_ranges", lambda points, *_: copied.append(points) or np.array([2.0])
    )
    cfg = config("eval.horizon=2", "eval.max_windows=4", "data.stride=2")
    cfg.eval.ground_threshold = -1
    held = forecasts.held_out(cfg, "kitti_clip", 1)
    assert [one.first for one in held] == [0, 2, 5, 7]
    assert [[t.time for t in one.targets] for one in held] == [[0, 10, 20]] * 4
    assert [t.rays["origin"][0] for t in held[1].targets] == [0, 10, 20]
    assert {len(points) for points in copied} == {2}
    assert [t.moving.tolist() for t in held[0].targets] == [[True]] * 3  # 3 m nearer
    assert len(forecasts.held_out(cfg, "simulated", 1)) == 1  # one start for each drive


def test_squared_errors_and_distances_are_of_their_frames():
    def target(step):
        rays = {
            "origin": np.zeros(3),
            "directions": np.eye(3)[:2],
            "ranges": np.array([10.0, 20.0]),
            "intensity": np.zeros(2),
        }
        still = np.zeros(2, dtype=bool)
        return forecasts.Target(step, 0.5 * step, rays, np.ones(2), still, rays["ranges"])

    held = [forecasts.Held(0, 0, np.zeros((1, 4)), np.zeros((2, 3)), [target(k) for k in range(3)])]
    errors = [[np.array([k, 3.0 * k]) for k in (0, 1, 2)]]
    actual = forecasts.summary(held, errors, 2)
    assert actual["forecast_mse"] == pytest.approx((1 + 9 + 4 + 36) / 4)
    assert [forecasts.chamfer_of(held, errors, k) for k in range(3)] == [0, 2, 4]


def test_baselines_learn_from_other_parts_than_they_are_judged_on(monkeypatch):
    parts, opened = [], []
    monkeypatch.setattr(
        baselines, "held_sets", lambda cfg, part=None: parts.append(part) or [("", [])]
    )
    monkeypatch.setattr(baselines, "_median_table", lambda held: None)
    monkeypatch.setattr(baselines, "_all_sets", lambda *_: {})
    baselines.median_range(config(), None)
    assert parts == ["train", None]
    boxes = np.zeros((7, 9))
    boxes[:, 0] = [0, 1, 9, 9.5, 10, 9, 30]
    frame = {"boxes": boxes, "labels": np.array([0, 0, 1, 1, 1, 0, 0])}
    monkeypatch.setattr(baselines, "open_source", lambda cfg, *place: opened.append(place[1:]))
    monkeypatch.setattr(baselines, "labelled_frames", lambda *_: [()])
    monkeypatch.setattr(baselines, "BoxesInGrid", lambda *_: lambda *_: frame)
    monkeypatch.setattr(baselines, "readable_scans", lambda data, places: places)
    monkeypatch.setattr(baselines, "test_frames", lambda cfg: [frame])
    guesses = []
    monkeypatch.setattr(
        baselines, "nuscenes_metrics", lambda made, truth, classes: guesses.extend(made) or {}
    )
    baselines.usual_boxes(config("finetune.folder=there", "finetune.max_boxes=3"), None)
    assert opened == [("labelled", "there")]
    (guess,) = guesses  # the densest place of a class first; one box there
    assert guess.boxes[:, 0].tolist() == [9, 0, 9]
    assert guess.labels.tolist() == [1, 0, 0]
    assert guess.scores.tolist() == [3, 2, 1]


def test_the_detector_is_trained_and_judged_on_the_frames_of_the_config(monkeypatch):
    opened = []

    class Frames(Numbered):
        def frame(self, sequence, number):
            boxes = np.array([[1, 1, 1, 1, 1, 1, 0, 0, 0.0]])
            return LidarFrame(np.zeros((1, 4)), np.eye(4), 0.0, boxes, ("tram",), np.ones(1))

    def opening(cfg, name, part, folder=None):
        opened.append((part, folder))
        return Frames()

    for module in (finetune, probes):
        monkeypatch.setattr(module, "open_source", opening)
    words = ["finetune.folder=there", "finetune.classes=[tram]", "finetune.frames=5", "seed=3"]
    cfg = config(*words, "eval.split=dev", "finetune.rotation=9", "finetune.source=npz")
    made = finetune.build_finetune_data(cfg)
    frames = made.train_set
    assert (len(frames), frames.seed, made.seed, frames.augment) == (5, 3, 3, cfg.finetune)
    judged_frames = probes.test_frames(cfg)
    assert (len(judged_frames), judged_frames[0]["labels"].tolist()) == (10, [0])
    assert opened == [("labelled", "there"), ("dev", "there")]
    monkeypatch.setattr(probes, "detect", lambda *_: ([], []))
    for name, more in (("npz", False), ("once", True), ("waymo", True)):
        cfg.finetune.source = name
        actual = probes.detection_metrics(cfg, None, [])[0]
        assert any(key.startswith("once_") for key in actual) == more


def test_seeds_of_samples_stages_and_detector_are_those_of_the_config():
    cfg = config("seed=5", "method.decay=0.25", "optim.warmup_steps=7")
    sets = data.open_sets(cfg, "train")
    made = [build_data(cfg, sets, horizon) for horizon in (1, 2)]
    assert [(part.seed, part.train_set.seed) for part in made] == [(6, 5), (7, 5)]
    np.testing.assert_allclose(made[1].train_set.probabilities, [0.8, 0.2])
    tuned = [finetune.Finetune(config(f"seed={seed}")) for seed in (5, 5, 6)]
    a, b, c = (next(m.detectors["scratch"].head.parameters()) for m in tuned)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert finetune.Finetune(cfg).optim.warmup_steps == 0
    scans = [
        open_source(config(f"seed={seed}"), "simulated", "labelled").frame(0, 0).points
        for seed in (5, 6)
    ]
    assert scans[0].shape != scans[1].shape or not np.array_equal(*scans)


def test_no_baseline_learns_from_judged_scans(tmp_path):
    cfg = config("data.sources=[npz]", f"data.folder={tmp_path}")
    cfg.eval.own = str(tmp_path)
    for baseline in (baselines.median_range, baselines.usual_boxes):
        with pytest.raises(UserError, match="has judged ones alone"):
            baseline(cfg, None)
    (tmp_path / "train").mkdir()
    baselines.check_apart(cfg, "npz")
    with pytest.raises(UserError, match="has judged ones alone"):
        baselines.check_apart(cfg, "kitti")  # all drives of a user are judged


def test_the_intensity_error_is_of_intensities(monkeypatch):
    asked = []
    errors = SimpleNamespace(ranges="ranges", intensity="intensity", opacity=1.0)
    monkeypatch.setattr(evaluate, "errors_of", lambda *_: errors)
    monkeypatch.setattr(evaluate, "copy_errors", lambda held: "copied")
    monkeypatch.setattr(evaluate, "judged", lambda *_: {"forecast_l1": 1.0})
    monkeypatch.setattr(evaluate, "summary", lambda *_: {})
    monkeypatch.setattr(evaluate, "chamfer_of", lambda *_: 0.0)
    monkeypatch.setattr(
        evaluate,
        "window_errors",
        lambda held, values, frames: asked.append((values, frames)) or [2],
    )
    held, said = [SimpleNamespace(num_candidates=4)], []
    cfg = config("eval.figures=false")
    cfg.eval.own = "drives"
    space = SimpleNamespace(say=said.append)
    network = SimpleNamespace(forecasts=False)
    actual = forecast_metrics(cfg, network, None, held, space, "")
    assert asked == [("intensity", [0])]
    assert (actual["current_intensity_l1"], actual["num_skipped"]) == (2, 3)
    assert said == ["windows with a scan that is damaged or empty: 3"]

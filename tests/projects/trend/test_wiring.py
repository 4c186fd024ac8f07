"""References, parts and draws of the evaluation and the samples: what they are given."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.engine.callbacks import step_seed
from projects.trend import data, evaluate, probes
from projects.trend import module as method
from projects.trend.data import ForecastSamples, build_data, candidates, in_first_frame
from projects.trend.evaluate import detection, forecast_metrics, held_sets, judged
from projects.trend.module import Trend
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

"""What the encoder sees, what it is compared with, and what stages and sets are made of (items 2,
8, 9, 13, 14).
"""

import numpy as np
import pytest
import torch

from common.config import UserError
from common.engine.callbacks import seed_all, step_seed
from common.engine.check import inspect
from common.engine.workspace import Workspace
from projects.trend import baselines, build, probes, sources
from projects.trend.evaluate import evaluate, forecast_metrics
from projects.trend.finetune import Finetune, num_labelled
from projects.trend.forecasts import errors_of, held_out, partners
from projects.trend.networks import Scan
from projects.trend.objective import frame_terms
from projects.trend.scans.rays import inside
from tests.projects.trend.conftest import batch_of, config, module_of, samples_of

ALONE = ("finetune.encoder_weights=random", "finetune.scratch=false", "eval.segmentation_frames=0")
AUGMENTED = ("data.rotation=40", "data.scale=[0.9,1.1]", "data.flip_y_prob=0.5")


# -- samples and objective -----------------------------------------------------------------------


def test_item_2_the_encoder_sees_the_current_scan():
    """Item 2: without a mask, all of it within the grid, and nothing of the future one."""
    samples = samples_of("data.mask_rate=0")
    item, data = samples.items[3], samples.data
    current = samples.sets[0].frame(item.sequence, item.first).points
    expected = current[inside(current, np.array(data.low), np.array(data.high)), :4]
    np.testing.assert_array_equal(samples[[(3, 0)]]["points"].numpy(), expected)


def test_item_13_the_encoder_s_points_are_augmented_with_the_rays():
    """Item 13: every current ray ends on one of them; twin: not on those of another
    augmentation."""
    samples = samples_of("data.mask_rate=0", *AUGMENTED)
    ends, points = [], []
    for epoch in range(3):
        batch = samples[[(0, epoch)]]
        now = batch["origins"][0, 0] + batch["ranges"][0, 0, :, None] * batch["directions"][0, 0]
        ends.append(now.double())
        points.append(batch["points"][:, :3].double())
    for i in range(3):
        assert float(torch.cdist(ends[i], points[i]).amin(1).max()) < 1e-3
        assert float(torch.cdist(ends[i], points[i - 1]).amin(1).max()) > 0.1


def test_item_8_terms_are_mean_absolute_errors():
    """Item 8: by hand; neither signed nor squared, and the unit divides the range term alone."""
    scan = Scan(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[0.5, 0.2]]),
        torch.ones(1, 2),
        torch.tensor([[0.5, -1.5]]),
    )
    terms = frame_terms(scan, torch.tensor([[2.0, -2.0]]), torch.tensor([[0.1, 0.6]]), unit=5.0)
    assert [float(t) for t in terms] == pytest.approx([0.5, 0.4, 1.0])


def test_item_8_each_frame_has_its_own_targets():
    """Items 8, 12: all six terms from what is rendered and what that frame observed."""
    module, batch = module_of("method.jitter=false"), batch_of("method.jitter=false")
    terms, scans = module.losses(batch), module.render(batch)
    for i, name in enumerate(("current", "future")):
        scan = scans[i]
        expected = {
            "range": scan.ranges - batch["ranges"][:, i],
            "intensity": scan.intensity - batch["intensity"][:, i],
            "surface": scan.surface,
        }
        for key, error in expected.items():
            torch.testing.assert_close(terms[f"{name}_{key}"], error.abs().mean())
        other = scan.intensity - batch["intensity"][:, 1 - i]
        assert not torch.allclose(other.abs().mean(), terms[f"{name}_intensity"], atol=1e-4)


@pytest.mark.parametrize("residual", [False, True])
def test_options_of_the_recurrence_are_those_of_the_config(residual):
    """With the last convolution at zero a residual step holds the volume still."""
    words = f"model.recurrent_residual={str(residual).lower()}"
    for norm, kind in (("batch", torch.nn.BatchNorm3d), ("group", torch.nn.GroupNorm)):
        recurrent = module_of(words, f"model.norm={norm}").network.recurrent
        assert isinstance(recurrent.volume[1], kind)
        torch.nn.init.zeros_(recurrent.volume[-1].weight)
        torch.nn.init.zeros_(recurrent.volume[-1].bias)
        volume = torch.randn(1, 16, 2, 4, 4)
        assert torch.equal(recurrent.step(volume, torch.ones(1, 3)), residual * volume)


# -- stages and sets -----------------------------------------------------------------------------


def test_item_9_all_stages_train_one_network():
    """Items 9, 14: the next horizon, and the detector, start from what was trained before."""
    actual = list(build(config()).stages())
    assert [s.name for s in actual] == ["pretrain_1", "pretrain_2", "finetune"]
    assert all(s.module.network is actual[0].module.network for s in actual)


def test_item_14_the_rate_of_fine_tuning_is_scaled():
    """Item 14: and of the detector alone."""
    cfg = config("finetune.lr_scale=3", "optim.lr=1e-2", "optim.warmup_steps=5")
    tuned = Finetune(cfg)
    assert (tuned.optim.lr, tuned.optim.warmup_steps) == (pytest.approx(3e-2), 0)
    assert (cfg.optim.lr, cfg.optim.warmup_steps) == (1e-2, 5)


def test_parts_of_the_official_sets(monkeypatch, tmp_path):
    """Item 16: labels of the training part, drive 08 and the validation parts for the test
    alone."""
    opened = {}
    for name in ("once", "waymo", "nuscenes", "semantic_kitti"):
        monkeypatch.setattr(sources, name, lambda root, split=None, scenes=None: split or scenes)
    cfg = config(f"data.root={tmp_path}")
    for name in ("once", "waymo", "nuscenes", "semantic_kitti"):
        parts = [sources.open_source(cfg, name, part) for part in ("train", "labelled", "test")]
        opened[name] = [getattr(part, "name", part) for part in parts]
    assert opened["once"] == ["raw_small", "train", "val"]
    assert opened["waymo"] == ["train", "train", "val"]
    assert opened["nuscenes"] == [None, "train.txt", "val.txt"]
    drives = tuple(f"{i:02d}" for i in range(11) if i != 8)
    assert opened["semantic_kitti"] == [drives, drives, ("08",)]


def test_waymo_has_the_road_at_zero(tmp_path):
    """Any other height of the sensor would make rays of the ground."""
    words = [
        f"data.root={tmp_path}",
        "data.sources=[waymo]",
        "finetune.steps=0",
        "eval.segmentation_frames=0",
    ]
    with pytest.raises(UserError, match="z = 0 is the road"):
        next(build(config(*words)).stages())
    with pytest.raises(UserError, match="ImageSets"):
        next(build(config(*words, "data.sensor_height=0")).stages())


def test_check_reads_batch_length_and_scans_of_fine_tuning_alone():
    """frames=0 are all of ONCE's; nothing is rendered, so rays take no memory."""
    assert num_labelled(config(name="paper_scratch")) == 248
    rows = inspect("trend", "paper_scratch", ["finetune.frames=0"])
    assert rows["batch size"] == "2 a device, 16 in all"
    assert (rows["samples"], rows["steps"]) == ("4,961", "24,800")
    words, key = (
        [*ALONE, "finetune.frames=0", "finetune.bev_width=400"],
        "activations (upper estimate)",
    )
    actual = inspect("trend", "smoke", [*words, "data.rays=999999"])
    assert (actual["samples"], actual["steps"]) == ("3", "3")
    assert 0.005 < float(actual[key].split()[0]) < 0.1


def test_compilation_reaches_the_parts_that_are_called(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part: seen.append(part))
    module = module_of()
    module.compile_encoders()
    tuned = Finetune(config(), module.network)
    tuned.compile_encoders()
    expected = [module.network.encoder, module.network.recurrent, *tuned.detectors.values()]
    assert [id(part) for part in seen] == [id(part) for part in expected]


# -- evaluation ----------------------------------------------------------------------------------


def test_item_14_references_begin_with_the_weights_of_training(monkeypatch, tmp_path):
    """Item 14: detector of the baseline and of scratch, network beside the forecasts and of the
    first stage.
    """
    seen, cfg = {}, config(*ALONE)
    seed_all(step_seed(cfg.seed, 0, 0, 0))  # as every run does
    (scratch,) = build(cfg).stages()
    monkeypatch.setattr(baselines, "held_sets", lambda cfg: [])

    def metrics(cfg, detector, frames):
        seen["detector"] = detector
        return {}, []

    monkeypatch.setattr(baselines, "detection_metrics", metrics)
    baselines.untrained(cfg, Workspace(tmp_path))
    cfg = config("finetune.steps=0", "eval.segmentation_frames=0")
    seed_all(step_seed(cfg.seed, 0, 0, 0))
    first = next(build(cfg).stages()).module

    def forecasts(cfg, network, plain, *others):
        seen["network"] = plain
        return {}

    monkeypatch.setattr("projects.trend.evaluate.forecast_metrics", forecasts)
    evaluate(cfg, first, Workspace(tmp_path))
    starts = {"detector": scratch.module.detectors["pretrained"], "network": first.network}
    for name, start in starts.items():
        actual = seen[name].state_dict()
        assert all(torch.equal(v, actual[k]) for k, v in start.state_dict().items()), name


def test_item_3_errors_of_a_network_that_never_learnt_to_forecast_are_of_a_still_volume():
    """Items 3, 15: T = 0 is judged as `forecast` renders it; twin: another volume, or another time,
    is not.
    """
    words = ("method.horizons=[0]", "method.steps=[6]")
    cfg, network = config(*words), module_of(*words).eval().network
    one, *_ = held_out(cfg, "simulated", 20)
    points, actions = torch.from_numpy(one.points).float(), torch.from_numpy(one.actions).float()

    def last():
        target = one.targets[-1]
        with torch.no_grad():
            ranges, _ = network.forecast(
                points,
                actions,
                torch.from_numpy(target.rays["origin"]).float(),
                torch.from_numpy(target.rays["directions"]).float(),
                target.time,
            )
        return ranges.numpy() - target.rays["ranges"]

    with torch.no_grad():
        actual = errors_of(cfg, network, [one]).ranges[0][-1]
    np.testing.assert_allclose(actual, last(), atol=1e-3)
    network.forecasts = True
    assert np.abs(last() - actual).max() > 1e-2


def test_shuffled_actions_are_those_of_another_drive_or_half_the_set_away(tmp_path):
    """Also alone in a batch; one window has no other, and its metric is left out."""
    cfg = config("eval.batch_size=1")
    network, held = module_of().eval().network, held_out(cfg, "simulated", 20)[:2]

    def of(numbers, size):
        return partners([type("H", (), {"sequence": n}) for n in numbers], size)

    assert of(range(5), 2) == [1, 0, 3, 2, 1]  # neighbours of the batch; the last one is alone
    assert of([0] * 6, 4) == [3, 4, 5, 0, 1, 2]
    with torch.no_grad():
        actual = errors_of(cfg, network, held, "shuffled").ranges
        held[0].actions, held[1].actions = held[1].actions, held[0].actions
        expected, true = (
            errors_of(cfg, network, held, kind).ranges for kind in ("true", "shuffled")
        )
        single = forecast_metrics(config(), network, None, held[:1], Workspace(tmp_path), "")
    for a, b, other in zip(actual, expected, true, strict=True):
        np.testing.assert_array_equal(a[2], b[2])
        assert not np.allclose(a[2], other[2])
    assert "zero_actions_change" in single
    assert "shuffled_actions_change" not in single
    with pytest.raises(UserError, match="one alone is held out"):
        errors_of(cfg, network, held[:1], "shuffled")


def test_scans_of_the_detector_s_test_are_read_when_their_turn_comes(monkeypatch):
    """Once each; a whole validation part does not fit in memory."""
    cfg, read = config("data.test_sequences=2", "eval.batch_size=4"), []
    data = sources.open_source(cfg, "simulated", "test")

    class Counted:
        lengths = data.lengths

        def frame(self, *place):
            read.append(place)
            return data.frame(*place)

    monkeypatch.setattr(probes, "open_source", lambda *_: Counted())
    frames = probes.test_frames(cfg)
    assert not read
    detector = Finetune(cfg).eval().detectors["pretrained"]
    with torch.no_grad():
        actual, expected = probes.detect(detector, frames, cfg.eval.batch_size)
    assert read == [(s, i) for s in range(2) for i in range(3)]
    assert len(actual) == len(expected) == 6
    assert sum(len(w.boxes) for w in expected) > 5

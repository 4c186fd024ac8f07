"""What is judged and against what: rays and weights, runs without pre-training, baselines,
compare.yaml.
"""

import json

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from common.config import CONFIG_DIR, UserError
from common.engine.comparison.spec import default_arms, read_comparisons
from common.engine.workspace import Workspace
from projects.trend import baselines, forecasts, probes
from projects.trend.data import open_sets
from projects.trend.evaluate import detection, evaluate, show_extremes
from projects.trend.finetune import Finetune
from projects.trend.forecasts import Held, Target, held_out, summary, window_errors
from projects.trend.networks import TrendNetwork, network_options
from projects.trend.sources import open_source, requirements
from tests.projects.trend.conftest import config, module_of


def above(frame, cfg):
    """Rows of a frame above the ground and within the grid's sides (frame 0: not moved)."""
    points, low, high = frame.points, np.array(cfg.data.low), np.array(cfg.data.high)
    inside = ((points[:, :3] >= low) & (points[:, :3] < high)).all(1)
    return inside & (points[:, 2] + cfg.data.sensor_height > 0.3)


def test_judged_rays_keep_their_share_of_the_scan():
    """Moving returns are drawn more often, so that there are enough; means count each as what it
    stands for.
    """
    cfg = config("data.test_sequences=3", "data.columns=120")
    (data,) = open_sets(cfg, "test")
    held = held_out(cfg, "simulated", 40)
    over = 0
    for i, one in enumerate(held):
        frame, target = data.frame(i, 0), one.targets[0]
        rows = above(frame, cfg)
        assert target.weight.sum() == pytest.approx(rows.sum())
        moves = frame.moving[rows]
        assert target.weight[target.moving].sum() == pytest.approx(moves.sum())
        assert target.moving.sum() >= min(20, moves.sum())
        assert (~target.moving).sum() >= min(20, (~moves).sum())  # none crowds the other out
        over += target.moving.mean() > moves.mean() + 0.02
        one_if_moving = [[t.moving.astype(float) for t in one.targets]]
        assert window_errors([one], one_if_moving, [0])[0] == pytest.approx(moves.mean())
    assert over  # without weights some mean would be another


def test_all_arms_are_asked_for_the_same_returns():
    """Also the arm that trains on the ground; the evaluation's own threshold changes them."""
    actual = {
        name: held_out(config(name), "simulated", 40)[0].targets[1].rays["directions"]
        for name in ("seed=0", "data.ground_threshold=-1", "eval.ground_threshold=-1")
    }
    first, arm, other = actual.values()
    np.testing.assert_array_equal(first, arm)
    assert not np.array_equal(first, other)


def test_no_moving_return_is_no_perfect_forecast():
    held = held_out(config(), "simulated", 40)
    errors = [[np.ones(len(t.weight)) for t in one.targets] for one in held]
    known = summary(held, errors, 2)
    for one in held:
        for target in one.targets:
            target.moving[:] = False
    actual = summary(held, errors, 2)
    assert {k for k in known if "moving" in k} == known.keys() - actual.keys() != set()
    assert all(v == pytest.approx(1) for v in known.values())


def test_item_3_a_network_that_never_learnt_to_forecast_holds_its_volume_still():
    """T = 0: `forecast` of run and export does not go through a recurrence with random weights."""
    points, eye = torch.randn(50, 4), torch.eye(3)
    ahead, none = torch.tensor([[4.0, 0.0, 0.1]]), torch.zeros(0, 3)
    still = module_of("method.horizons=[0]", "method.steps=[6]").network.eval()
    for network in (
        still,
        TrendNetwork(**network_options(config("method.horizons=[0]", "method.steps=[6]"))),
    ):
        now = network.forecast(points, none, torch.zeros(3), eye, 0.0)[0]
        assert torch.equal(network.forecast(points, ahead, torch.zeros(3), eye, 0.5)[0], now)
    other = module_of().network.eval()
    now = other.forecast(points, none, torch.zeros(3), eye, 0.0)[0]
    assert not torch.equal(other.forecast(points, ahead, torch.zeros(3), eye, 0.5)[0], now)


def test_item_16_without_pretraining_nothing_is_forecast(tmp_path):
    """Scratch and transfer: a field that never saw a scan has no forecasts, and its set isn't
    needed.
    """
    words = (
        "finetune.encoder_weights=random",
        "finetune.scratch=false",
        "eval.segmentation_frames=0",
    )
    cfg = config(*words, "eval.untrained=false")
    with torch.inference_mode():
        actual = evaluate(cfg, Finetune(cfg).eval(), Workspace(tmp_path))
    assert not [k for k in actual if "forecast" in k or "current" in k]
    assert {"map_2.0m", "nds"} <= actual.keys()
    assert [r.name for r in requirements(config(name="paper_waymo"))] == ["data: waymo"]
    assert [r.name for r in requirements(config(name="paper"))] == ["data: once"]


def test_held_out_parts_of_sets_without_official_ones(tmp_path, monkeypatch):
    """No test part stands in for a development part, and no drive is in two parts."""
    plain = config(f"data.root={tmp_path}")
    for name in ("once", "waymo", "nuscenes", "semantic_kitti"):
        with pytest.raises(UserError, match="training and validation parts alone"):
            open_source(plain, name, "dev")
    root = tmp_path / "KITTI_raw"
    monkeypatch.setattr("projects.trend.sources.kitti_raw", lambda _, drives: drives)
    for number in range(7):
        (root / f"d/{number:02d}_sync").mkdir(parents=True)
    parts = {}
    for split in ("test", "dev"):
        cfg = config(f"data.root={tmp_path}", f"eval.split={split}")
        for part in ("train", split):
            parts[split, part] = open_source(cfg, "kitti", part)
    assert (parts["test", "test"], parts["dev", "dev"]) == (["04_sync"], ["03_sync"])
    assert len(parts["test", "train"]) == 6
    assert len(parts["dev", "train"]) == 5
    assert not set(parts["test", "train"]) & {"04_sync"}
    assert not set(parts["dev", "train"]) & {"03_sync", "04_sync"}
    for path in sorted(root.glob("d/*"))[1:]:
        path.rmdir()
    with pytest.raises(UserError, match="held out"):
        open_source(plain, "kitti", "train")


class Damaged:
    """A set whose frames at some places cannot be read."""

    def __init__(self, data, *bad):
        self.data, self.bad, self.lengths = data, bad, data.lengths

    def __getattr__(self, name):
        return getattr(self.data, name)

    def frame(self, *place):
        if place in self.bad:
            raise ValueError("no rows of 4")
        return self.data.frame(*place)


def test_a_damaged_scan_of_the_test_part_is_left_out(tmp_path, monkeypatch, caplog):
    """One scan stopped the evaluation after all stages: of forecasts, boxes and points."""
    cfg = config("data.test_sequences=3", "eval.untrained=false", "eval.figures=true")
    real = open_source(cfg, "simulated", "test")
    whole = held_out(cfg, "simulated", 40)
    for module in (forecasts, probes, baselines):
        monkeypatch.setattr(module, "open_source", lambda *_: Damaged(real, (0, 0), (1, 2)))
    (held,) = held_out(cfg, "simulated", 40)
    assert (held.sequence, held.num_candidates) == (2, 3)
    np.testing.assert_array_equal(held.points, whole[2].points)  # drawn by its own number
    assert "sequence 2, scan 1: no rows of 4" in caplog.text
    frames = probes.test_frames(cfg)
    first = next(probes.readable_frames(frames))
    np.testing.assert_array_equal(first["points"], frames[1]["points"])
    space = Workspace(tmp_path)
    with torch.inference_mode():
        module = Finetune(cfg).eval()
        found, true = probes.detect(module.detectors["pretrained"], frames, 2)
        assert len(found) == len(true) == 7
        assert "map" in detection(cfg, module, space)
        assert "miou" in probes.segmentation_probe(cfg, module.network.encoder)
        assert "map" in baselines.usual_boxes(cfg, space)


def test_baselines_report_what_the_arms_do(tmp_path):
    """Copy, median, usual boxes and the untrained network: metrics, and items to pair claims by."""
    cfg = config("data.test_sequences=3", "data.train_sequences=8", "finetune.frames=20")
    actual, space = {}, Workspace(tmp_path)
    with torch.inference_mode():
        for name in ("copy_frame", "median_range", "usual_boxes", "untrained"):
            actual[name] = getattr(baselines, name)(cfg, space)
            if name != "usual_boxes":
                path = tmp_path / "items/forecast_moving_l1.json"
                items = json.loads(path.read_text(encoding="utf-8"))
                assert np.mean(items) == pytest.approx(actual[name]["forecast_moving_l1"])
    assert actual["copy_frame"]["current_l1"] < 0.1 < actual["median_range"]["current_l1"]
    assert actual["median_range"]["forecast_l1"] < 0.7 * actual["untrained"]["forecast_l1"]
    assert actual["usual_boxes"]["map"] > 0
    assert {"segmentation_miou", *actual["usual_boxes"]} <= actual["untrained"].keys()


def test_the_median_of_a_direction():
    """Rays ahead end at 2, 4 and 9 m, one to the left at 5 m; the third stands for four; behind
    nothing is known.
    """
    rays = {
        "directions": np.array([[1, 0.01, 0.01]] * 3 + [[0, 1, 0.01]]),
        "ranges": np.array([2, 4, 9, 5.0]),
    }
    target = type("T", (), {"rays": rays, "weight": np.array([1, 1, 4, 1])})
    table = baselines._median_table([type("H", (), {"targets": [target]})])
    cells = baselines._cell(np.array([[1, 0.02, 0.01], [0, 1, 0.01], [-1, 0.01, 0.01]]))
    assert table[cells].tolist() == [9, 5, 9]


def test_the_comparisons_differ_in_pretraining_alone():
    """Item 14: one fine-tuning for all initialisations; fresh seeds; equal searches on the
    development part.
    """
    forecast, transfer = read_comparisons("trend")
    assert default_arms(forecast) == ["trend", "reconstruction", "reconstruction_moving"]
    assert default_arms(transfer) == ["trend", "reconstruction", "scratch"]
    assert all(transfer.arms[name] == forecast.arms[name] for name in ("trend", "reconstruction"))
    tuned = {}
    for name, own in transfer.arms.items():
        cfg = config(*(f"{k}={json.dumps(v)}" for k, v in own.items()), name="mini_simulated")
        tune = vars(cfg.finetune) | {"encoder_weights": None, "lr_scale": None}
        rate = round(cfg.optim.lr * cfg.finetune.lr_scale, 9)
        tuned[name] = (tune, rate, cfg.data.test_sequences, cfg.data.sources, cfg.eval.split)
        assert not cfg.finetune.scratch
    assert tuned["trend"] == tuned["reconstruction"] == tuned["scratch"]
    sweep = OmegaConf.load(CONFIG_DIR / "trend/sweep.yaml")
    assert sweep.arms == default_arms(forecast)[:2]  # the third is reconstruction at another rate
    assert sweep.shared["eval.split"] == "dev"
    assert transfer.seeds == forecast.seeds
    assert not {0, 1, 2, sweep.seed} & set(forecast.seeds)


def test_galleries_begin_with_the_best_and_the_worst_forecast(tmp_path):
    one = {"origin": np.zeros(3), "directions": np.eye(3), "ranges": np.ones(3)}
    rest = (np.ones(3), np.zeros(3, bool), np.ones(3))
    targets = [Target(step, 0.5 * step, one, *rest) for step in (0, 1)]
    held = [Held(0, first, np.zeros((0, 4)), np.zeros((1, 3)), targets) for first in (4, 8)]
    errors = [[np.full(3, 9.0), np.full(3, 0.5)], [np.full(3, 0.0), np.full(3, -2.0)]]
    show_extremes(held, errors, 4.0, Workspace(tmp_path, "trend", "smoke"), "kitti_")
    shown = {}
    for kind in ("best", "worst"):
        file = tmp_path / "gallery" / f"{kind} forecasts kitti" / "gallery.json"
        shown[kind] = json.loads(file.read_text())
    assert [row["query"]["text"] for row in shown["best"]] == [
        "sequence 1, scan 5: 0.50 m",
        "sequence 1, scan 9: 2.00 m",
    ]
    assert shown["worst"][0]["query"] == shown["best"][1]["query"]
    assert [(r["name"], r["score"]) for r in shown["best"][0]["results"]] == [
        ("now", 9.0),
        ("0.5 s ahead", 0.5),
    ]

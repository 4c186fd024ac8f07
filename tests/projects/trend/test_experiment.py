"""Data, stages, fine-tuning, evaluation and export as the commands drive them (items 9-18)."""

import json
from functools import reduce

import numpy as np
import pytest
import torch

from common.config import UserError
from common.engine.comparison.spec import read_comparison
from common.engine.run import train
from common.export.safetensors import load_safetensors
from projects.trend import build
from projects.trend.data import ForecastSamples, build_data, open_sets
from projects.trend.detection_losses import gaussian_focal, heat_target
from projects.trend.encoders.bev import BevGrid, CenterHead, decode_boxes, encode_boxes
from projects.trend.encoders.detector import Detector
from projects.trend.evaluate import horizon_figure
from projects.trend.export import open_backbone
from projects.trend.finetune import (
    WITH_BOXES,
    Finetune,
    build_finetune_data,
    labelled_source,
    transfer_encoder,
)
from projects.trend.forecasts import copy_errors, errors_of, held_out, summary
from projects.trend.networks import build_network, encoder_options
from projects.trend.scans.poses import planar_pose
from projects.trend.scans.sequences import FrameLists, LidarFrame, Window
from projects.trend.sources import num_samples, requirements
from tests.projects.trend.conftest import batch_of, config, module_of, samples_of
from tests.smoke import metrics_of

PAPERS = (
    "paper",
    "paper_nuscenes",
    "paper_waymo",
    "paper_semantic_kitti",
    "paper_scratch",
    "paper_field_only",
    "paper_recurrent_only",
    "paper_no_curriculum",
    "paper_horizon_3",
    "paper_horizon_5",
    "paper_horizon_2",
    "paper_all_returns",
    "paper_spread_rays",
)


def train_smoke(folder, *overrides):
    return train("trend", "smoke", [f"runs_dir={folder}", *overrides])


# -- samples -------------------------------------------------------------------------------------


def drive(step=1.0):
    """Three scans of one landmark from a vehicle that moves and turns."""
    landmark = np.array([9.0, 3.0, 1.0, 1.0])
    frames = []
    for i in range(3):
        pose = planar_pose(step * i, 0.2 * i, 0.15 * i, z=1.8)
        seen = np.linalg.inv(pose) @ landmark
        ground = [[4.0, 1.0, -1.8], [3.0, -2.0, -1.75]]
        points = np.array([[*seen[:3], 0.5], *[[*g, 0.1] for g in ground]], dtype=np.float32)
        frames.append(LidarFrame(points, pose, 0.5 * i))
    return FrameLists([frames]), landmark


@pytest.mark.parametrize("augmented", [False, True])
def test_item_1_everything_is_in_the_first_frame(augmented):
    """Items 1, 10, 12, 13: targets of all frames end on one landmark, seen from moving origins."""
    data, landmark = drive()
    own = ["data.rotation=40", "data.scale=[0.9,1.1]", "data.flip_y_prob=0.5"] if augmented else []
    cfg = config("data.mask_rate=0", "data.rays=4", *own)
    items = [Window(0, 0, 0, 1)]
    samples = ForecastSamples([data], items, cfg.data, 2, 0.5, 0)
    ahead = set()
    for epoch in range(8):
        batch = samples[[(0, epoch)]]
        ends = batch["origins"][:, :, None] + batch["ranges"][..., None] * batch["directions"]
        same = ends[0, 0, 0].expand_as(ends)  # ground returns are no rays
        torch.testing.assert_close(ends, same, rtol=1e-4, atol=1e-4)
        steps = int(batch["steps"][0, 1])
        ahead.add(steps)
        pose = reduce(np.matmul, [planar_pose(*a) for a in batch["actions"][0, :steps].numpy()])
        np.testing.assert_allclose(batch["origins"][0, 1, :2], pose[:2, 3], atol=1e-4)
        assert batch["times"][0].tolist() == pytest.approx([0, 0.5 * steps])
        if not augmented:
            expected = np.linalg.inv(data.pose(0, 0)) @ landmark
            np.testing.assert_allclose(ends[0, 0, 0], expected[:3], atol=1e-4)
    assert ahead == {1, 2}


def test_item_8_near_futures_are_drawn_more_often():
    samples = samples_of()
    ahead = [int(samples[[(i % 6, i)]]["steps"][0, 1]) for i in range(60)]
    assert 1.3 < ahead.count(1) / ahead.count(2) < 4


def test_item_11_the_mask_hides_inputs_and_no_target():
    """Item 11: fewer points at a higher rate, the same rays: targets are drawn from all returns."""
    plain, masked = (batch_of(f"data.mask_rate={r}") for r in (0.0, 0.9))
    assert len(masked["points"]) < 0.5 * len(plain["points"])
    for name in ("ranges", "directions", "intensity"):
        assert torch.equal(plain[name], masked[name])
    for batch in (plain, masked):
        assert set(batch["owner"].tolist()) == {0, 1}
    assert config(name="paper").data.mask_rate == 0.9


def test_batches_do_not_depend_on_the_order_of_access():
    samples = samples_of("data.rotation=20")
    whole, alone = samples[[(3, 0), (1, 0)]], samples[[(1, 0)]]
    assert torch.equal(whole["ranges"][1], alone["ranges"][0])
    assert torch.equal(whole["points"][whole["owner"] == 1], alone["points"])
    assert not torch.equal(samples[[(1, 1)]]["ranges"], alone["ranges"])


def test_corrupt_frames_are_passed_over_and_many_of_them_stop_the_run():
    data, _ = drive()
    broken = FrameLists(
        [[LidarFrame(np.zeros((0, 4), np.float32), np.eye(4), 0.5 * i) for i in range(3)]]
    )
    cfg = config("data.mask_rate=0")
    samples = ForecastSamples(
        [broken, data], [Window(0, 0, 0, 1), Window(1, 0, 0, 1)], cfg.data, 2, 0.5, 0
    )
    batch = samples[[(0, 0)]]
    assert batch["skipped"] == 1
    assert batch["ids"].tolist() == [1]
    alone = ForecastSamples([broken], [Window(0, 0, 0, 1)], cfg.data, 2, 0.5, 0)
    with pytest.raises(UserError, match="cannot be read"):
        alone[[(0, 0)]]


def test_item_9_stages_grow_and_forecast_from_the_start():
    """Item 9: two stages of configurable length; the first one already forecasts a frame."""
    stages = build(config("finetune.steps=0", "method.steps=[5,7]")).stages()
    actual = [(s.name, dict(s.trainer), s.data.train_set.horizon) for s in stages]
    assert actual == [("pretrain_1", {"max_steps": 5}, 1), ("pretrain_2", {"max_steps": 7}, 2)]
    method = config(name="paper").method
    assert (method.horizons, method.epochs) == ([1, 4], [12, 36])
    assert config(name="paper_no_curriculum").method.horizons == [4]
    lengths = {len(build_data(config(), open_sets(config(), "train"), h).train_set) for h in (1, 2)}
    assert len(lengths) == 1  # stages differ in nothing but the horizon


def test_the_bundled_drive_is_split_with_a_gap():
    cfg = config("data.sources=[kitti_clip]", "eval.horizon=3")
    parts = {}
    for part in ("train", "test", "dev"):
        (data,) = open_sets(cfg, part)
        parts[part] = [data.pose(0, i).tobytes() for i in range(data.lengths[0])]
    assert [len(parts[p]) for p in ("train", "test", "dev")] == [110, 30, 30]
    assert not set(parts["train"]) & set(parts["test"])
    held = held_out(cfg, "kitti_clip", rays=50, step=5)
    assert [len(h.targets) for h in held] == [4, 4, 4]
    actual = summary(held, copy_errors(held), 3)
    assert actual["current_l1"] < 0.1 < actual["forecast_l1_t3"] < 6


# -- fine-tuning ---------------------------------------------------------------------------------


def detector_of(*overrides):
    cfg = config(*overrides)
    return Detector(encoder_options(cfg), cfg.finetune)


def test_crowded_classes_reach_the_head_by_their_place():
    cfg = config("finetune.detector=transfusion")
    last = cfg.finetune.classes[-1]
    actual = detector_of("finetune.detector=transfusion", f"finetune.crowded=[{last}]")
    assert actual.head.crowded == [len(cfg.finetune.classes) - 1]


def test_item_14_only_the_encoder_is_transferred():
    """Item 14: equal neck, backbone and head; another encoder is refused with its keys."""
    module = Finetune(config(), module_of().network)
    states = [d.state_dict() for d in module.detectors.values()]
    differing = {k for k in states[0] if not torch.equal(states[0][k], states[1][k])}
    assert differing
    assert all(k.startswith("encoder.") for k in differing)
    encoder = module.network.encoder.state_dict()
    assert all(torch.equal(states[0][f"encoder.{k}"], v) for k, v in encoder.items())
    pointers = [{p.data_ptr() for p in d.parameters()} for d in module.detectors.values()]
    assert not pointers[0] & pointers[1]
    assert not any(p.requires_grad for p in module.network.parameters())
    other = detector_of("model.widths=[8,24]")
    with pytest.raises(UserError, match=r"of another shape .*layers\.3\.weight"):
        transfer_encoder(module.network, other)
    deeper = detector_of("model.widths=[8,16,16]", "model.strides=[[1,1,1],[2,1,1],[1,1,1]]")
    with pytest.raises(UserError, match=r"missing .*layers\.6\.weight"):
        transfer_encoder(module.network, deeper)


@pytest.mark.parametrize("kind", ["center", "transfusion"])
def test_item_16_both_detectors_learn(kind):
    """Item 16: each detector's loss falls, every parameter gets a gradient, boxes come out."""
    cfg = config(f"finetune.detector={kind}", "finetune.scratch=false", "finetune.proposals=12")
    torch.manual_seed(0)
    module = Finetune(cfg).train()
    batch = build_finetune_data(cfg).train_set[[(0, 0), (1, 0)]]
    assert sum(len(b) for b in batch["boxes"]) > 2
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        terms = module.losses(batch)
        terms["loss"].backward()
        if not losses:
            for name, p in module.detectors.named_parameters():
                assert p.grad is not None, name
                assert torch.isfinite(p.grad).all(), name
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]
    actual = module.eval().detectors["pretrained"].detect(batch["points"], batch["owner"], 2)
    assert [b.boxes.shape[1] for b in actual] == [9, 9]
    assert all((b.scores.diff() <= 0).all() for b in actual)
    empty = {
        **batch,
        "boxes": [b[:0] for b in batch["boxes"]],
        "labels": [k[:0] for k in batch["labels"]],
    }
    assert torch.isfinite(module.losses(empty)["loss"])


def test_item_14_the_detector_does_not_depend_on_what_was_trained_before():
    """Item 14: equal neck, backbone and head after any number of random draws; another seed has
    others.
    """
    states, network = {}, module_of().network
    for name, draws, seed in (("trend", 0, 0), ("scratch", 1000, 0), ("other", 0, 1)):
        torch.rand(draws)
        before = torch.get_rng_state()
        module = Finetune(config(f"seed={seed}"), network)
        assert torch.equal(torch.get_rng_state(), before)
        states[name] = module.detectors["pretrained"].state_dict()
    first = states["trend"]
    assert all(torch.equal(v, first[k]) for k, v in states["scratch"].items())
    assert any(not torch.equal(v, first[k]) for k, v in states["other"].items())


def test_item_14_detectors_beside_each_other_are_clipped_apart():
    """Item 14: a large gradient of one detector does not shorten the step of the other."""
    module = Finetune(config(), module_of().network)
    norms = {"pretrained": 100.0, "scratch": 20.0}
    for name, norm in norms.items():
        for p in module.detectors[name].parameters():
            p.grad = torch.zeros_like(p)
        next(module.detectors[name].parameters()).grad.view(-1)[0] = norm
    module.configure_gradient_clipping(None, 35.0)
    actual = {
        name: float(torch.stack([p.grad.norm() for p in d.parameters()]).norm())
        for name, d in module.detectors.items()
    }
    assert actual == pytest.approx({"pretrained": 35.0, "scratch": 20.0}, rel=1e-5)


def test_what_a_later_stage_lacks_is_said_before_pretraining(tmp_path):
    """No box of the classes, no set with boxes, missing files, no labelled points, no development
    part.
    """
    for words, message in (
        (["finetune.classes=[Car]"], r"no box of finetune.classes=\['Car'\].*car"),
        (["finetune.source=kitti_clip"], "kitti_clip has no boxes"),
        (["data.sources=[kitti_clip]", "eval.segmentation_frames=0"], "has boxes"),
        (["finetune.source=waymo"], "Waymo"),
        (["data.sources=[kitti_clip]", "finetune.steps=0"], "segmentation_frames needs"),
        (
            ["data.sources=[once]", "finetune.steps=0", "eval.split=dev"],
            "validation parts alone",
        ),
    ):
        with pytest.raises(UserError, match=message):
            next(build(config(f"data.root={tmp_path}", *words)).stages())


@pytest.mark.parametrize("kind", ["center", "transfusion"])
def test_the_box_term_has_the_weight_of_the_config(kind):
    """OpenPCDet: 1.0 on ONCE, 0.25 on nuScenes, 2.0 on Waymo."""
    terms = {}
    for weight in (0.25, 1.0):
        words = [
            f"finetune.detector={kind}",
            f"finetune.box_weight={weight}",
            "finetune.scratch=false",
        ]
        cfg = config(*words)
        torch.manual_seed(0)
        module = Finetune(cfg).eval()  # equal features for both weights
        with torch.no_grad():
            terms[weight] = module.losses(build_finetune_data(cfg).train_set[[(0, 0), (1, 0)]])
        box = terms[weight]["pretrained_box"]
        others = sum(v for k, v in terms[weight].items() if k[-4:] in ("heat", "sses"))
        torch.testing.assert_close(terms[weight]["loss"], others + weight * box)
        assert box > 0
    gained = terms[1.0]["loss"] - terms[0.25]["loss"]
    torch.testing.assert_close(gained, 0.75 * terms[1.0]["pretrained_box"])
    weights = {"paper": 1.0, "paper_scratch": 1.0, "paper_nuscenes": 0.25, "paper_waymo": 2.0}
    assert {name: config(name=name).finetune.box_weight for name in weights} == weights
    with pytest.raises(UserError, match="box_weight must be >= 0"):
        config("finetune.box_weight=-1")


def test_box_codes_heat_maps_and_decoding_agree():
    grid = BevGrid((-8.0, -8.0), (1.0, 1.0), (16, 16))
    boxes = torch.tensor(
        [[3.2, -1.4, 0.5, 4, 2, 1.5, 0.7, 1, -2], [-5.0, 5.5, 0, 1, 1, 2, -3, 0, 0]]
    )
    labels = torch.tensor([1, 0])
    code, cell = encode_boxes(boxes, grid)
    torch.testing.assert_close(decode_boxes(code, cell, grid), boxes)
    heat = heat_target(boxes, labels, grid, 3)
    assert int((heat == 1).sum()) == 2
    assert heat[1, cell[0, 1], cell[0, 0]] == 1
    assert heat[2].sum() == 0
    logits = torch.logit(heat.clamp(0.01, 0.99))
    assert gaussian_focal(logits, heat) < gaussian_focal(-logits, heat)
    head = CenterHead(4, 8, 3, grid)
    maps = torch.zeros(1, 10, 16, 16)
    maps[0, :, cell[:, 1], cell[:, 0]] = code.T
    (actual,) = head.decode(logits[None], maps, threshold=0.9)
    order = actual.labels.argsort(descending=True)
    torch.testing.assert_close(actual.boxes[order], boxes)


def test_sources_with_boxes_are_found_and_missing_sets_are_named(tmp_path):
    """Items 15, 16: data sets and detectors are selectable; each paper config says what it
    lacks."""
    assert labelled_source(config("data.sources=[kitti_clip,simulated]")) == "simulated"
    with pytest.raises(UserError, match="has boxes"):
        labelled_source(config("data.sources=[kitti_clip]"))
    for source, message in {
        "once": "ONCE",
        "waymo": "Waymo",
        "nuscenes": "nuScenes",
        "kitti": "KITTI raw",
        "semantic_kitti": "SemanticKITTI",
        "npz": "LiDAR sequences",
    }.items():
        tuned = [] if source in WITH_BOXES else ["finetune.steps=0"]
        words = [f"data.root={tmp_path}", f"data.sources=[{source}]", "eval.segmentation_frames=0"]
        cfg = config(*words, *tuned)
        with pytest.raises(UserError, match=message):
            next(build(cfg).stages())
        assert not all(r.present for r in requirements(cfg))


@pytest.mark.parametrize("name", PAPERS)
def test_item_15_ablations_and_papers(name):
    """Items 15, 16: the configs of the paper's tables."""
    cfg = config(name=name)
    assert (cfg.data.rays, cfg.method.samples, cfg.model.widths[-1]) == (12288, 48, 128)
    expected = {
        "paper_field_only": ([0], True),
        "paper_recurrent_only": ([1, 4], False),
        "paper_horizon_2": ([1, 2], True),
        "paper_horizon_3": ([1, 3], True),
        "paper_horizon_5": ([1, 5], True),
        "paper_no_curriculum": ([4], True),
    }.get(name, ([1, 4], True))
    assert (cfg.method.horizons, cfg.method.time_encoding) == expected
    assert sum(cfg.method.epochs) == 48  # as long as the method itself
    assert cfg.frames_ahead == max(4, expected[0][-1])  # and on the same scans, also of T = 0
    assert (cfg.data.sampling == "spread") == (name == "paper_spread_rays")
    assert (cfg.data.ground_threshold < 0) == (name == "paper_all_returns")
    scans = cfg.finetune.batch_size * cfg.trainer.devices * cfg.trainer.accumulate_grad_batches
    assert scans == 16  # of a fine-tuning step: 4 GPUs of 4
    waymo, fusion = name == "paper_waymo", cfg.finetune.detector == "transfusion"
    assert cfg.trainer.gradient_clip_val == (10.0 if waymo else 35.0)  # OpenPCDet's GRAD_NORM_CLIP
    assert cfg.finetune.score_threshold == (0.0 if fusion else 0.1)  # and SCORE_THRESH
    heads = {"paper": "center", "paper_waymo": "center", "paper_nuscenes": "transfusion"}
    assert cfg.finetune.detector == heads.get(name, cfg.finetune.detector)


# -- the commands --------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_reports_forecasts_detection_and_pictures(tmp_path):
    """Items 14, 15, 17: references beside every number, items for the bootstrap, figures."""
    run = train_smoke(
        tmp_path,
        "eval.figures=true",
        "data.sources=[simulated,kitti_clip]",
        "eval.clip_rays=30",
        "eval.clip_step=19",
    )
    metrics = metrics_of(run)
    for prefix in ("", "kitti_"):
        for reference in ("", "copy_", "untrained_"):
            for key in ("current_l1", "forecast_l1", "forecast_moving_l1", "forecast_l1_t2"):
                assert f"{prefix}{reference}{key}" in metrics
        assert {f"{prefix}zero_actions_change", f"{prefix}chamfer_t1"} <= metrics.keys()
    assert metrics["copy_current_l1"] < 0.1 < metrics["untrained_current_l1"]
    assert {"map", "nds", "scratch_map", "map_2.0m", "scratch_map_2.0m", "ap_car"} <= metrics.keys()
    assert 0 <= metrics["segmentation_miou"] <= 1
    items = json.loads((run / "items/forecast_moving_l1.json").read_text(encoding="utf-8"))
    assert sum(items) / len(items) == pytest.approx(metrics["forecast_moving_l1"])
    pictures = {p.stem for p in (run / "plots").glob("*.png")}
    assert {"scans_0", "kitti_scans_0", "horizon", "boxes_pretrained", "boxes_scratch"} <= pictures
    assert horizon_figure(config(), {}) is not None
    curve = (run / "metrics.csv").read_text(encoding="utf-8")
    assert all(
        key in curve for key in ("train/future_range", "train/scratch_heat", "train/sharpness")
    )


def test_export_and_the_readme_s_lines(tmp_path):
    """Backbone and forecaster reload with equal outputs; a backbone starts another run."""
    cfg = config()
    experiment, module = build(cfg), Finetune(config(), module_of().network).eval()
    with torch.inference_mode():
        experiment.export(module, tmp_path)
        again = experiment.load_export(tmp_path).eval()
        before, after = experiment.embed(module), experiment.embed(again)
        assert all(torch.equal(before[k], after[k]) for k in before)
        points = torch.randn(50, 4)
        encoder = open_backbone(tmp_path / "backbone")
        owner = torch.zeros(50, dtype=torch.long)
        assert torch.equal(encoder(points, owner, 1), module.network.encoder(points, owner, 1))
        network = load_safetensors(tmp_path / "network", build_network)
        ranges, intensity = network.forecast(
            points, torch.zeros(2, 3), torch.zeros(3), torch.eye(3), 1.0
        )
    assert ranges.shape == intensity.shape == (3,)
    start = config(f"finetune.encoder_weights={tmp_path / 'backbone'}")
    (stage,) = build(start).stages()
    moved = stage.module.detectors["pretrained"].encoder.state_dict()
    assert all(torch.equal(v, moved[k]) for k, v in encoder.state_dict().items())
    with pytest.raises(UserError, match="export/backbone"):
        next(build(config("finetune.encoder_weights=nowhere")).stages())


def test_shuffled_actions_reach_the_evaluation():
    cfg = config("method.actions=shuffled")
    module = module_of("method.actions=shuffled").eval()
    held = held_out(cfg, "simulated", 20)
    with torch.no_grad():
        own, true = (errors_of(cfg, module.network, held, a).ranges for a in (None, "true"))
    assert not np.allclose(own[0][1], true[0][1])
    np.testing.assert_allclose(own[0][0], true[0][0], atol=1e-5)


def test_published_errors_see_each_frame_from_its_own_origin_at_its_own_time():
    """Items 1, 4: the errors are those of `forecast`, the model as a user calls it; twins with the
    first frame's rays are not.
    """
    cfg = config()
    network = module_of().eval().network
    held = held_out(cfg, "simulated", 20)
    with torch.no_grad():
        actual = errors_of(cfg, network, held).ranges
    for one, own in zip(held[:2], actual, strict=False):
        for step, target in enumerate(one.targets):
            points, actions = torch.from_numpy(one.points).float(), torch.tensor(one.actions[:step])

            def error(origin, time, points=points, actions=actions, rays=target.rays):
                directions = torch.from_numpy(rays["directions"]).float()
                with torch.no_grad():
                    ranges, _ = network.forecast(
                        points, actions.float(), torch.as_tensor(origin).float(), directions, time
                    )
                return ranges.double().numpy() - rays["ranges"]

            expected = error(target.rays["origin"], target.time)
            np.testing.assert_allclose(own[step], expected, atol=1e-3)
            if step:
                first = one.targets[0]
                for twin in (
                    (first.rays["origin"], target.time),
                    (target.rays["origin"], first.time),
                ):
                    assert np.abs(error(*twin) - own[step]).max() > 1e-2


def test_arms_differ_in_one_thing():
    """Arms of all horizons see the same training scans, as often of each set."""
    comparison = read_comparison("trend")
    arms, mini = comparison.arms, config(name=comparison.base)
    assert arms["reconstruction"]["method.steps"] == [sum(mini.method.steps)]
    assert arms["reconstruction"]["data.rays"] == 2 * mini.data.rays
    items = {}
    for name in ("trend", "reconstruction", "horizon_2"):
        words = [f"{k}={json.dumps(v)}" for k, v in arms[name].items()]
        cfg = config("data.train_sequences=5", *words, name="mini")
        items[name] = build_data(
            cfg, open_sets(cfg, "train"), cfg.method.horizons[-1]
        ).train_set.items
        assert len(items[name]) == num_samples(cfg) == 5 + 95
    assert items["trend"] == items["reconstruction"] == items["horizon_2"]
    free = config("data.frames_ahead=null", "method.horizons=[0]", "method.steps=[6]", name="mini")
    assert num_samples(free) == 4 * 320 + 110  # left free, reconstruction would see more of one set
    with pytest.raises(UserError, match="frames_ahead must reach"):
        config("data.frames_ahead=1")

"""What the project uses from elsewhere, seen through its own functions (items 10, 17 to 20)."""

import sys

import numpy as np
import pytest
import torch

from common.config import config_names
from projects.trend import probes
from projects.trend.data import open_sets
from projects.trend.encoders.bev import Detections
from projects.trend.encoders.trilinear import trilinear
from tests.projects.trend.conftest import batch_of, config, module_of, samples_of


def heights(*overrides: str) -> torch.Tensor:
    """Metres above the ground of the ends of all rays of some current and future frames."""
    batch = batch_of("data.rays=200", *overrides, rows=4)
    ends = batch["origins"][:, :, None] + batch["ranges"][..., None] * batch["directions"]
    return ends[..., 2] + config().data.sensor_height


def test_item_10_ground_returns_are_no_rays():
    """Item 10: every target lies above the threshold; without it (ablation) the ground is seen."""
    threshold = config().data.ground_threshold
    assert float(heights().min()) > threshold - 0.05
    assert float((heights("data.ground_threshold=-1") < threshold).float().mean()) > 0.2


def test_item_10_rays_are_drawn_uniformly():
    """Item 10: over many epochs each candidate of a frame comes about equally often."""
    samples = samples_of("data.rays=20")
    rows = [samples.sample(0, np.random.default_rng(i))["rays"][0]["rows"] for i in range(300)]
    assert all(len(set(r.tolist())) == 20 for r in rows)
    counts = np.bincount(np.concatenate(rows))
    counts = counts[counts > 0]
    mean = 300 * 20 / len(counts)
    assert abs(counts - mean).max() < 5 * mean**0.5


class Oracle(torch.nn.Linear):
    """Detects the true boxes of the frames in turn, moved by some metres along x."""

    def __init__(self, frames: list[dict], shift: float) -> None:
        super().__init__(1, 1)
        self.frames, self.shift = list(frames), shift

    def detect(self, points: torch.Tensor, owner: torch.Tensor, count: int) -> list[Detections]:
        """`count` frames further."""
        part, self.frames = self.frames[:count], self.frames[count:]
        moved = [torch.from_numpy(f["boxes"]).clone() for f in part]
        for boxes in moved:
            boxes[:, 0] += self.shift
        return [
            Detections(boxes, torch.ones(len(boxes)), torch.from_numpy(f["labels"]))
            for boxes, f in zip(moved, part, strict=True)
        ]


def test_item_17_metrics_of_the_project_s_frames():
    """Item 17: true boxes score 1 (NDS 0.9, no attributes); at 1.5 m off they count from 2 m on."""
    cfg = config("data.test_sequences=3")
    frames = probes.test_frames(cfg)
    assert sum(len(f["boxes"]) for f in frames) > 10
    actual, _ = probes.detection_metrics(cfg, Oracle(frames, 0.0), frames)
    assert actual["map"] == pytest.approx(1.0)
    assert actual["nds"] == pytest.approx(0.9)
    apart = [{**f, "boxes": f["boxes"][:1], "labels": f["labels"][:1]} for f in frames]
    classes = {cfg.finetune.classes[int(f["labels"][0])] for f in apart if len(f["labels"])}
    moved, _ = probes.detection_metrics(cfg, Oracle(apart, 1.5), apart)
    share = len(classes) / len(cfg.finetune.classes)  # classes that do not occur count as zero
    expected = {"map_0.5m": 0.0, "map_1.0m": 0.0, "map_2.0m": share, "map_4.0m": share}
    assert {k: moved[k] for k in expected} == pytest.approx(expected)


def test_item_18_simulated_parts_are_functions_of_the_seed():
    """Item 18: equal on every call, another for another seed, and no drive in two parts."""
    scans = {}
    for part in ("train", "test", "dev", "labelled"):
        once, again = (open_sets(config(), part)[0].frame(0, 1).points for _ in range(2))
        np.testing.assert_array_equal(once, again)
        scans[part] = once.tobytes()
    scans["seed"] = open_sets(config("seed=1"), "train")[0].frame(0, 1).points.tobytes()
    assert len(set(scans.values())) == 5


def test_item_19_metres_meet_the_cells_of_the_volume():
    """Item 19: at a cell's centre the field reads that cell, x fastest; beyond the box its
    border."""
    network = module_of("data.high=[25.6,12.8,4.0]", "data.voxel=[3.2,1.6,1.6]").network
    field, grid = network.field, network.encoder.grid
    depth, rows, columns = network.encoder.volume_shape
    volume = torch.arange(float(depth * rows * columns)).view(1, 1, depth, rows, columns)
    low, high = torch.tensor(grid.low), torch.tensor(grid.high)
    size = (high - low) / torch.tensor([columns, rows, depth])
    for z, y, x in ((0, 0, 0), (1, 3, 5), (depth - 1, rows - 1, columns - 1), (0, 7, 2)):
        centre = low + size * (torch.tensor([x, y, z]) + 0.5)
        actual = trilinear(volume, field.place(centre)[None, None])
        assert float(actual) == pytest.approx(float(volume[0, 0, z, y, x]), abs=1e-2)
        half = trilinear(volume, field.place(centre + size * torch.tensor([0.5, 0, 0]))[None, None])
        step = 0.5 if x + 1 < columns else 0.0
        assert float(half - actual) == pytest.approx(step, abs=1e-2)
    far = trilinear(volume, field.place(high + 99)[None, None])
    assert float(far) == float(volume[0, 0, -1, -1, -1])


@pytest.mark.parametrize("encoder", ["dense", "voxel_res_8x"])
def test_item_20_both_encoders_train_without_a_sparse_library(monkeypatch, encoder):
    """Item 20: with spconv out of reach every encoder weight gets a finite gradient."""
    monkeypatch.setitem(sys.modules, "spconv", None)
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    words = ["data.voxel=[1.6,1.6,0.4]", f"model.encoder={encoder}"]
    if encoder == "voxel_res_8x":
        words.append("model.widths=[4,4,8,16]")
    module = module_of(*words)
    terms = module.losses(batch_of(*words))
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    for name, parameter in module.network.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_item_20_the_sparse_encoder_runs_in_the_precision_of_its_configs(monkeypatch):
    """Under bf16-mixed the first step raised: products in bfloat16 onto a sum in float32."""
    monkeypatch.setitem(sys.modules, "spconv", None)
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    actual = [config(name=name) for name in config_names("trend")]
    sparse = [cfg.trainer.precision for cfg in actual if cfg.model.encoder == "voxel_res_8x"]
    assert len(sparse) >= 13
    words = ["data.voxel=[1.6,1.6,0.4]", "model.encoder=voxel_res_8x", "model.widths=[4,4,8,16]"]
    module, batch = module_of(*words), batch_of(*words)
    for precision in set(sparse):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision.endswith("-mixed")):
            assert torch.isfinite(module.losses(batch)["loss"])

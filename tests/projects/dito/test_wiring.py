"""What reaches the stages, the loaders and the evaluation of a config."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from common.engine.workspace import Workspace
from common.evaluation.image_text.zeroshot import SIMPLE_TEMPLATES
from projects.dito import baselines, tasks
from projects.dito import evaluate as evaluation
from projects.dito.data import training_data
from projects.dito.evaluate import SHIFTED, cut, regions_of
from projects.dito.module import argmax_by_size
from projects.dito.scenes import Scenes
from projects.dito.stages import image_path, templates_of
from tests.projects.dito.conftest import config, module_of


class Means:
    """In place of a network: an image is its mean, a region its box."""

    def image_vectors(self, images):
        return torch.stack([images.flatten(1).mean(1), torch.ones(len(images))], 1)

    def region_vectors(self, images, boxes):
        return torch.cat(boxes)

    map_vectors = region_vectors


def scenes_with(labels, names=("a", "b", "c")):
    count = len(labels)
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(count, 1)[:, None]
    images = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    return Scenes(images, boxes, torch.tensor(labels)[:, None], list(names))


def test_a_crop_reads_the_box_and_a_centre_box_the_middle():
    images = torch.zeros(1, 3, 8, 8)
    images[:, :, 0:2, 4:8] = 1.0  # rows, columns
    boxes = torch.tensor([[[4.0, 0.0, 8.0, 2.0], [0.0, 4.0, 2.0, 8.0]]])
    inside, outside = regions_of(Means(), images, boxes, "crop")[0]
    torch.testing.assert_close(inside, F.normalize(torch.ones(2), dim=0))
    torch.testing.assert_close(outside, torch.tensor([0.0, 1.0]))
    middle = regions_of(Means(), images, boxes, "centre")[0, 0]
    torch.testing.assert_close(middle, F.normalize(torch.tensor([2.0, 2.0, 6.0, 6.0]), dim=0))


def test_a_limit_keeps_the_names_and_few_scenes_are_moved(monkeypatch):
    assert cut(scenes_with([0, 1, 2]), 2).names == ["a", "b", "c"]
    asked = []
    monkeypatch.setattr(evaluation, "region_kind", lambda *_: "map")
    batch = (slice(0, 1), torch.zeros(1, 3, 8, 8), torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]))
    monkeypatch.setattr(evaluation, "batches", lambda cfg, net, s: asked.append(s) or [batch])
    assert evaluation.shift_variance(config(), Means(), scenes_with([0] * (SHIFTED + 1)))
    assert len(asked[0].images) == SHIFTED


def test_the_majority_is_that_of_training_scenes(monkeypatch):
    parts = {"train": scenes_with([1, 1, 0]), "test": scenes_with([0, 0, 1])}
    monkeypatch.setattr(baselines, "scenes_of", lambda cfg, part: parts[part])
    monkeypatch.setattr(baselines, "_accuracy", lambda cfg, scenes, right: right.flatten().tolist())
    assert baselines.majority(config("eval.split=test"), None) == [False, False, True]


def test_boxes_are_drawn_by_seed_step_and_image():
    def boxes(seed, step):
        module = module_of("region", f"seed={seed}")
        stands = SimpleNamespace(cfg=module.cfg, global_step=step)
        drawn = type(module).boxes_of(stands, torch.tensor([3]), (32, 32))[0]
        return drawn, type(module)._generator(stands, 3).initial_seed()

    (first, start), (other, later), (again, same) = boxes(0, 0), boxes(0, 1), boxes(0, 0)
    assert torch.equal(first, again)
    assert start == same != later
    assert not torch.equal(first, other)
    assert not torch.equal(first, boxes(1, 0)[0])


def test_multipliers_stay_in_their_bounds_in_both_stages():
    module = module_of("region")
    for scale in (module.network.image_scale, module.network.region_scale):
        scale.log_scale.data.fill_(99.0)
    module.after_optimizer_step()
    for scale in (module.network.image_scale, module.network.region_scale):
        assert float(scale.log_scale.exp()) <= 100.1


def test_maxima_are_counted_against_the_boxes_of_a_size():
    boxes = torch.tensor([[[0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 9.0, 10.0]]])
    regions = torch.tensor([[[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    actual = argmax_by_size(regions, boxes, 10)
    assert {k: float(v) for k, v in actual.items()} == pytest.approx(
        {"argmax_small": 1.5, "argmax_middle": 0.0, "argmax_large": 0.5}
    )


def test_settings_reach_loaders_templates_and_the_place_of_weights():
    cfg = config("data.num_workers=2")
    assert training_data(cfg, "image", module_of("image").network.tokenizer).num_workers == 2
    assert templates_of(config("eval.templates=clip")) == SIMPLE_TEMPLATES
    assert templates_of(config("eval.templates=plain")) == ("{}",)
    assert image_path(config("seed=1"), 0) != image_path(config("seed=2"), 0)


def test_detection_takes_the_threshold_of_the_config(monkeypatch, tmp_path):
    asked = []

    class Detector:
        def __init__(self, folder, score):
            asked.append(folder)

        def __call__(self, path, names, *, base, threshold):
            asked.append(threshold)
            return []

        @staticmethod
        def draw(path, boxes):
            return Image.new("RGB", (2, 2))

    monkeypatch.setattr(tasks, "Detector", Detector)
    words = ["run.model=m", "run.inputs=[a.png]", "run.names=[dog]", "run.threshold=0.4"]
    tasks.detect(config(*words), Workspace(tmp_path))
    assert asked == ["m", 0.4]

"""What is measured of regions, boxes and locality, and what needs no training."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from common.engine.workspace import Workspace
from projects.dito import baselines, detector, evaluate
from projects.dito.detector import Detections, pointing, similarity_maps
from projects.dito.scenes import Scenes, is_base, scenes_of
from tests.projects.dito.conftest import config, module_of, network_of


def test_borders_pointing_and_kinds_of_regions():
    """By hand on small boxes; each kind of region gives unit vectors, whole and centre know no
    box."""
    cfg = config()
    boxes = torch.tensor([[0.0, 0, 16, 16], [15, 3, 17, 9], [17, 2, 30, 20], [17, 17, 30, 30]])
    assert evaluate.crosses(boxes, cfg).tolist() == [False, True, True, False]
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 0, 1, 6], maps[0, 1, 7, 0] = 1, 1
    inside = torch.tensor([[[24.0, 4, 28, 8], [0, 0, 4, 28]]])
    assert pointing(maps, inside, 4).tolist() == [[True, False]]
    network = network_of(cfg, ("region",)).eval()
    images = torch.randn(2, 3, 32, 32)
    own = torch.tensor([[[0.0, 0, 16, 16], [8, 8, 30, 30]]]).repeat(2, 1, 1)
    with torch.no_grad():
        for kind in ("head", "map", "crop", "whole", "centre"):
            rows = evaluate.regions_of(network, images, own, kind)
            torch.testing.assert_close(rows.norm(dim=-1), torch.ones(2, 2))
            same = torch.allclose(rows[:, 0], rows[:, 1], atol=1e-5)
            assert same == (kind in ("whole", "centre")), kind
        texts = F.normalize(torch.randn(2, 3, 32), dim=-1)
        patch = similarity_maps(network, images, texts, "patch")
        region = similarity_maps(network, images, texts, "region")
        place = network.region_vectors(
            images[:1], [torch.tensor([[14 - 6.4, 10 - 6.4, 14 + 6.4, 10 + 6.4]])]
        )
        want = F.normalize(place, dim=1)[0] @ texts[0, 1]
        torch.testing.assert_close(region[0, 1, 2, 3], want)
        token = network.image_proj(network.image_map(images)[1, :, 2, 5])
        torch.testing.assert_close(patch[1, 2, 2, 5], F.normalize(token, dim=0) @ texts[1, 2])


def test_item_9_each_branch_has_its_temperature(monkeypatch):
    """Checklist 9: `temp_det` times the learned one for the detector, `temp_vlm` for the frozen
    branch.
    """
    cfg, seen = config("score.temp_det=0.2", "score.temp_vlm=0.03"), []
    network = network_of(cfg, ("region", "detect")).eval()
    network.log_temperature.data.fill_(0.7)
    plain = detector.class_probabilities
    monkeypatch.setattr(
        detector, "class_probabilities", lambda v, c, t: seen.append(float(t)) or plain(v, c, t)
    )
    detector.detect(network, torch.randn(1, 3, 32, 32), network.classes(["a"]), cfg.score)
    assert seen == pytest.approx([0.2 * math.exp(0.7), 0.03])


@pytest.mark.parametrize(
    ("words", "labels", "scores"),
    [
        ([], [1, 2], [0.9, 0.7]),
        (["score.nms=0.85"], [1, 1, 2, 2], [0.9, 0.8, 0.7, 0.1]),
        (["score.keep=1"], [1], [0.9]),
        (["score.threshold=0.75"], [1], [0.9]),
    ],
)
def test_item_9_boxes_are_suppressed_within_a_class(words, labels, scores):
    """Checklist 9: two boxes with an overlap of .8; the better one of each class stays."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 8]])
    actual = detector._suppressed(
        boxes, torch.tensor([[0.9, 0.1], [0.8, 0.7]]), config(*words).score
    )
    assert actual.labels.tolist() == labels
    torch.testing.assert_close(actual.scores, torch.tensor(scores))


def test_shares_are_means_of_scenes_that_have_such_a_box(tmp_path, monkeypatch):
    """Items and metric of the border are the same by hand: scenes weigh alike, however many boxes
    cross.
    """
    inside, across = [0.0, 0, 8, 8], [8.0, 2, 24, 9]
    boxes = torch.tensor([[across, across], [across, inside], [inside, inside]])
    labels = torch.zeros(3, 2, dtype=torch.long)
    scenes = Scenes(torch.zeros(3, 3, 32, 32, dtype=torch.uint8), boxes, labels, ["a", "b"])
    best = torch.tensor([[0, 1], [0, 1], [0, 0]])
    monkeypatch.setattr(evaluate, "predicted", lambda *_: (best, torch.ones(3)))
    actual = evaluate.named_regions(
        config(), SimpleNamespace(trained=[]), scenes, Workspace(tmp_path)
    )
    items = {
        n: json.loads((tmp_path / f"items/region_top1{n}.json").read_text())
        for n in ("", "_border", "_inside")
    }
    assert items == {"": [0.5, 0.5, 1.0], "_border": [0.5, 1.0], "_inside": [0.0, 1.0]}
    for name, values in items.items():
        assert actual[f"region_top1{name}"] == pytest.approx(sum(values) / len(values))


def test_regions_that_move_with_their_scene_do_not_vary(monkeypatch):
    """By hand: 0 for a constant and for the pixel at the corner, not for an angle by place."""
    cfg = config("data.image_size=32", "eval.batch_size=2")
    corners = torch.tensor([[[0.0, 0], [9, 3]], [[5, 14], [25, 2]], [[11, 7], [23, 1]]])
    boxes = torch.cat([corners, corners + 4], -1)  # (25, 2) leaves, (23, 1) at the second step
    images = torch.arange(3 * 3 * 32 * 32).remainder(251).view(3, 3, 32, 32).to(torch.uint8)
    scenes = Scenes(images, boxes, torch.zeros(3, 2, dtype=torch.long), ["a"])
    network = SimpleNamespace(trained=["region"], log_temperature=torch.zeros(()))

    def pixel(images, boxes):
        x, y = boxes[..., 0].long().clamp(max=31), boxes[..., 1].long().clamp(max=31)
        rows = torch.arange(len(images))[:, None]
        return F.normalize(images[rows, :, y, x] + 3, dim=-1)

    def angle(_, boxes):
        actual = boxes[..., 0] / 10
        return torch.stack([actual.cos(), actual.sin()], -1)

    def constant(_, boxes):
        return torch.tensor([1.0, 0.0]).expand(*boxes.shape[:2], 2)

    actual = []
    for regions in (constant, pixel, angle):
        monkeypatch.setattr(
            evaluate, "regions_of", lambda _, images, boxes, kind, own=regions: own(images, boxes)
        )
        actual.append(evaluate.shift_variance(cfg, network, scenes)["shift_variance"])
    turned = 5 * (1 - math.cos(0.4)) + 4 * (1 - math.cos(0.8))  # of 5 and 4 boxes that stay
    assert actual == pytest.approx([0, 0, turned / 9], abs=1e-6)
    assert evaluate.shift_variance(config("eval.regions=whole"), network, scenes) == {}


def test_transfer_tells_known_names_from_new_ones(monkeypatch):
    """By hand: the box of the one known name is right, and one of three with new names."""
    labels = torch.tensor([[0, 1], [2, 1]])
    lists = {"test": ["bee", "cat"], "transfer": ["bee", "dog", "elk"]}
    monkeypatch.setattr(
        evaluate,
        "scenes_of",
        lambda _, part: Scenes(torch.zeros(2, 3, 8, 8), torch.zeros(2, 2, 4), labels, lists[part]),
    )
    best = torch.tensor([[0, 0], [2, 2]])
    monkeypatch.setattr(evaluate, "predicted", lambda *_: (best, torch.ones(2)))
    actual = evaluate.transfer(config(), SimpleNamespace(trained=[]))
    assert actual == pytest.approx(
        {
            "transfer_region_top1": 0.5,
            "transfer_region_top1_chance": 1 / 3,
            "transfer_region_top1_known_names": 1.0,
            "transfer_region_top1_new_names": 1 / 3,
        }
    )


def test_captions_are_ranked_among_full_batches():
    """A smaller last batch has no part; all boxes are named, by an untrained head too."""
    network = network_of(config(), ("image",)).eval()
    for count, ranked in ((6, 4), (8, 8), (3, 3)):
        cfg = config(f"data.eval_scenes={count}", "eval.batch_size=4", "eval.regions=head")
        assert evaluate.region_kind(cfg, network) == "head"
        with torch.no_grad():
            best, nearest = evaluate.predicted(cfg, network, scenes_of(cfg, "test"), "head")
        assert (len(best), len(nearest)) == (count, ranked)


def test_scenes_as_an_annotation_file_and_back():
    """True boxes as results have the ids and coordinates of the file."""
    scenes = Scenes(
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.tensor([[[1.0, 2, 5, 8]]]),
        torch.tensor([[1]]),
        ["a", "b"],
    )
    truth = evaluate.as_coco(scenes)
    assert truth["annotations"] == [{"image_id": 0, "category_id": 2, "bbox": [1, 2, 4, 6]}]
    rows = evaluate.as_results(
        Detections(scenes.boxes[0], torch.tensor([2]), torch.tensor([0.5])), 0, [1, 2]
    )
    assert rows == [{"image_id": 0, "category_id": 2, "bbox": [1, 2, 4, 6], "score": 0.5}]


def test_baselines_and_the_transfer_list(tmp_path):
    """Chance, the commonest name, pixels, untrained, also on borders; clip art is named by its own
    list without training.
    """
    words = [
        "data.source=emoji",
        "data.image_size=64",
        "model.patch_size=8",
        "data.scenes=20",
        "data.eval_scenes=10",
        "data.names=60",
        "data.objects=3",
    ]
    cfg, work = config(*words), Workspace(tmp_path)
    actual = {
        n: getattr(baselines, n)(cfg, work)
        for n in ("chance", "majority", "template_matching", "untrained")
    }
    expected = {"region_top1", "region_top1_border", "region_top1_inside"}
    assert all(own.keys() == expected for own in actual.values())
    assert set(actual["chance"].values()) == {1 / 60}
    assert actual["template_matching"]["region_top1"] > 5 / 60
    assert actual["template_matching"]["region_top1_border"] > 5 / 60
    assert all(0 <= v <= 1 for own in actual.values() for v in own.values())
    network = network_of(cfg, ("region",)).eval()
    with torch.no_grad():
        actual = evaluate.transfer(cfg, network)
    assert actual["transfer_region_top1_chance"] < 1 / 60
    assert "transfer_region_top1_new_names" in actual


def test_the_report_follows_its_options(monkeypatch, tmp_path):
    """`eval.split` and `eval.limit` choose the scenes; transfer and mechanism are switches."""
    asked = []
    monkeypatch.setattr(
        evaluate, "scenes_of", lambda cfg, part: asked.append(part) or scenes_of(config(), "dev")
    )
    seen = []
    monkeypatch.setattr(
        evaluate, "named_regions", lambda c, n, scenes, w: seen.append(len(scenes.images)) or {}
    )
    for name in ("transfer", "locality", "shift_variance", "evaluate_scenes"):
        monkeypatch.setattr(evaluate, name, lambda *_, own=name: {own: 1.0})
    module = module_of("region")

    def report(*words):
        return set(evaluate.evaluate(config(*words), module, Workspace(tmp_path)))

    emoji = "data.source=emoji"
    assert report("eval.split=dev", "eval.limit=5") == {"locality", "shift_variance"}
    assert (asked, seen) == (["dev"], [5])
    assert report(emoji) == {"transfer", "locality", "shift_variance"}
    assert report(emoji, "eval.transfer=false", "eval.mechanism=false") == set()
    module.network.trained.append("detect")
    assert report("eval.mechanism=false") == {"evaluate_scenes"}
    assert asked[1:] == ["test"] * 3


def test_a_true_box_is_found_by_half_an_overlap():
    """IoU of .5 counts, less does not; without boxes nothing is found."""
    truth = torch.tensor([[0.0, 0, 8, 8], [20, 20, 28, 28]])
    half = torch.tensor([[0.0, 0, 8, 4], [20, 20, 28, 23]])
    assert evaluate.covered(truth, half).tolist() == [1, 0]
    assert evaluate.covered(truth, half[:0]).tolist() == [0, 0]


def test_scenes_tell_base_names_from_novel_ones(monkeypatch, tmp_path):
    """Names that were trained with boxes weigh as base in the fusion."""
    cfg, splits = config("data.eval_scenes=4"), []
    scenes = scenes_of(cfg, "test")
    none = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    monkeypatch.setattr(
        evaluate,
        "detect",
        lambda n, images, c, s, base: splits.append(base.tolist()) or [none] * len(images),
    )
    network = network_of(cfg, ("detect",)).eval()
    assert evaluate.evaluate_scenes(cfg, network, scenes, Workspace(tmp_path))["box_recall"] == 0
    assert splits[0] == [False, *map(is_base, scenes.names)]
    assert 0 < sum(splits[0]) < len(scenes.names)


def test_captions_names_and_maps_are_those_of_their_scene(monkeypatch, tmp_path):
    """Beyond the first batch too; base and novel names apart; the gallery tells right from
    wrong; chance is a box's mean share of the scene."""
    numbers = torch.arange(4, dtype=torch.uint8)
    boxes = torch.tensor([[[0.0, 0, 16, 16], [0, 0, 8, 8]]]).repeat(4, 1, 1)
    labels = torch.tensor([[0, 1], [1, 2], [2, 0], [2, 1]])
    scenes = Scenes(
        numbers[:, None, None, None].expand(4, 3, 32, 32), boxes, labels, ["a", "b", "c"]
    )
    network = SimpleNamespace(
        trained=["detect"],
        log_temperature=torch.zeros(()),
        classes=lambda names, _: torch.eye(4),
        tokenizer=lambda texts: torch.tensor([int(text) for text in texts]),
        text_vectors=lambda tokens: torch.eye(4)[tokens],
        image_vectors=lambda images: torch.eye(4)[images[:, 0, 0, 0].long()],
    )
    asked, shown = [], {}

    def maps(network, images, texts, kind):
        asked.extend(zip(images[:, 0, 0, 0].tolist(), texts.argmax(-1).tolist(), strict=True))
        return torch.zeros(len(images), 2, 8, 8)

    regions = torch.eye(4)[1 + torch.tensor([[0, 1], [0, 0], [2, 2], [0, 0]])]
    monkeypatch.setattr(Scenes, "caption", lambda self, i: str(i))
    monkeypatch.setattr(evaluate, "transform_of", lambda data: SimpleNamespace(batch=lambda x: x))
    monkeypatch.setattr(
        evaluate, "regions_of", lambda n, images, *_: regions[images[:, 0, 0, 0].long()]
    )
    monkeypatch.setattr(evaluate, "similarity_maps", maps)
    monkeypatch.setattr(evaluate, "is_base", lambda name: name == "a")
    monkeypatch.setattr(evaluate, "draw_boxes", lambda picture, boxes, names: names)
    monkeypatch.setattr(Workspace, "gallery", lambda self, title, rows: shown.update({title: rows}))
    cfg = config("eval.batch_size=2")
    actual = evaluate.named_regions(cfg, network, scenes, Workspace(tmp_path))
    assert actual["caption_r1_in_batch"] == 1
    assert actual["region_top1"] == 3 / 8
    assert actual["region_top1_base"] == 0.5
    assert actual["region_top1_novel"] == pytest.approx(1 / 3)
    assert [[r["correct"] for r in row["results"]] for row in shown["regions"]] == [
        [True, True],
        [False, False],
        [True, False],
        [False, False],
    ]
    monkeypatch.setattr(evaluate, "scenes_of", lambda cfg, part: scenes)
    limited = evaluate.transfer(config("eval.batch_size=2", "eval.limit=1"), network)
    assert limited["transfer_region_top1"] == 1
    chance = evaluate.locality(cfg, network, scenes)["pointing_chance"]
    assert chance == pytest.approx((16 * 16 + 8 * 8) / 2 / 32**2)
    texts = [[1 + y for y in row] for row in labels.tolist()]
    kinds = ("patch", "region")
    assert asked == [(i, texts[i]) for first in (0, 2) for _ in kinds for i in (first, first + 1)]

"""What is judged, on what, and against what, with made-up features in place of a model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.image.labelled import LabelledPixels
from common.engine.workspace import Workspace
from projects.mofi import evaluate as ev
from projects.mofi.evaluate import HeldOut
from projects.mofi.module import QUALITY
from tests.projects.mofi.conftest import config, module_of


@pytest.fixture
def parts(monkeypatch):
    """Every part of the report gives its name."""
    asked = {}
    for name in ("evaluate_pool", "evaluate_synthetic"):
        monkeypatch.setattr(ev, name, lambda *_, own=name: {own: 1.0})
    sets = {"pets_zeroshot_top1": 1.0}
    monkeypatch.setattr(ev, "protocol", lambda *_: lambda names: asked.update(sets=names) or sets)
    monkeypatch.setattr(
        ev, "gpr1200_metrics", lambda cfg, module, path, _: asked.update(gpr=path) or {"gpr": 1.0}
    )
    return asked


def test_the_report_has_what_the_config_asks_for(parts, tmp_path):
    """Each source its own part; sets and GPR1200 where they are named, below `eval.root`."""
    module, work = module_of(), Workspace(tmp_path)

    def metrics(*words, **options):
        return ev.evaluate(config(*words, **options), module, work).keys()

    assert metrics() == {"logit_scale", "evaluate_synthetic"}
    assert metrics(name="mini") == {"logit_scale", "evaluate_pool"}
    named = ["data.source=jsonl", "data.files=x.jsonl"]
    assert metrics(*named) == {"logit_scale"}
    assert metrics(*named, "eval.datasets=[pets]") == {"logit_scale", "pets_zeroshot_top1"}
    (tmp_path / "data").mkdir()
    (tmp_path / "judged").mkdir()
    roots = [f"data.root={tmp_path}/data", f"eval.root={tmp_path}/judged", "eval.gpr1200=gpr"]
    assert metrics(*named, *roots) == {"logit_scale", "gpr"}
    assert parts["gpr"] == tmp_path / "judged/gpr"
    assert metrics(*named, roots[0], roots[2]) == {"logit_scale", "gpr"}
    assert parts["gpr"] == tmp_path / "data/gpr"
    module.quality.copy_(torch.tensor([0.5, 0.7, 0.6, 0.8]))
    assert metrics(*named) == {"logit_scale", *QUALITY}


def test_held_out_images_have_company_and_no_copies(monkeypatch):
    """Flags and drawings without a noun go, of near-copies all but the first, and then nouns of
    one drawing alone."""
    nouns = ["lark", "lark", "oak", "oak", "flag", "", "elk", "lark"]
    rows = [{"image": str(i), "name": f"n{i}", "noun": noun} for i, noun in enumerate(nouns)]
    asked = {}

    def pixels(names, data):
        return torch.tensor([int(name) for name in names])[:, None]

    def copies(images, titles, bound):
        asked["bound"] = bound
        same = torch.eye(len(titles), dtype=torch.bool)
        place = {title: i for i, title in enumerate(titles)}
        for a, b in (("n0", "n1"), ("n2", "n3")):
            same[place[a], place[b]] = same[place[b], place[a]] = True
        return same.tolist()

    def judged(root, split, size):
        asked.update(split=split, size=size)
        return LabelledPixels(torch.zeros(20, 3, 2, 2), torch.arange(20) % 10, list("abcdefghij"))

    monkeypatch.setattr(ev, "read_held_out", lambda cfg: rows)
    monkeypatch.setattr(ev, "pool_images", pixels)
    monkeypatch.setattr(ev, "near_copies", copies)
    monkeypatch.setattr(ev, "photographs_to_judge", judged)
    monkeypatch.setattr(ev, "JUDGED_PHOTOS", 10)
    cfg = config("eval.near_copy=0.7", "eval.split=test", "data.image_size=16", name="mini")
    actual = ev.held_out(cfg)
    assert actual.names == ["0", "7"]
    assert actual.nouns == ["lark", "lark"]
    assert actual.drawings.flatten().tolist() == [0, 7]
    assert len(actual.photos.labels) == 10
    assert asked == {"bound": 0.7, "split": "test", "size": 16}


def features(rows: Tensor) -> Tensor:
    """Unit vectors by class."""
    return torch.nn.functional.one_hot(rows, 10).float()


def held(labels, nouns) -> HeldOut:
    images = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    photos = LabelledPixels(images, torch.tensor(labels), [str(c) for c in range(10)])
    drawings = torch.zeros(len(nouns), 3, 8, 8, dtype=torch.uint8)
    return HeldOut(photos, drawings, [f"{i}" for i in range(len(nouns))], nouns)


def test_probes_learn_from_training_photographs(monkeypatch, tmp_path):
    """Classes in their order; references are of the training part, at the config's size; k and the
    probe are options."""
    judged, asked = held([0, 1, 2, 2], ["oak", "oak"]), {}
    vectors = {id(judged.photos.images): features(torch.tensor([0, 1, 2, 3]))}
    references = LabelledPixels(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]), [])

    def load(root, split, size, limit):
        asked.update(split=split, size=size, limit=limit)
        return references

    def knn(train, train_labels, test, labels, ks):
        asked.update(ks=ks, train=train_labels is references.labels, test=labels)
        return {"knn": 1.0}

    monkeypatch.setattr(ev, "held_out", lambda cfg: judged)
    monkeypatch.setattr(ev, "load_cifar10", load)
    monkeypatch.setattr(ev, "encode_images", lambda c, m, x: vectors.get(id(x), torch.zeros(4, 10)))
    monkeypatch.setattr(ev, "pool_retrieval", lambda *_: {})
    monkeypatch.setattr(ev, "knn_accuracy", knn)
    monkeypatch.setattr(ev, "linear_probe", lambda *_, **words: {"probe": words["seed"]})
    monkeypatch.setattr(
        ev,
        "class_embeddings",
        lambda encode, names, templates: (
            asked.update(templates=templates)
            or features(torch.tensor([ev.CLASSES.index(n) for n in names]))
        ),
    )
    module = SimpleNamespace(encode_texts=None)
    cfg = config("eval.knn=3", "eval.probe=true", "data.image_size=8", "seed=4", name="mini")
    actual = ev.evaluate_pool(cfg, module, Workspace(tmp_path))
    assert actual["zeroshot_top1"] == 0.75
    assert json.loads((tmp_path / "items/zeroshot_top1.json").read_text()) == [1, 1, 1, 0]
    assert (actual["knn"], actual["probe"]) == (1, 4)
    assert asked["ks"] == (3,)
    assert asked["templates"] is ev.UNSEEN_PHOTO_TEMPLATES
    assert (asked["split"], asked["size"], asked["train"]) == ("train", 8, True)
    assert torch.equal(asked["test"], judged.photos.labels)
    cfg.eval.probe = False
    assert "probe" not in ev.evaluate_pool(cfg, module)


def test_nouns_are_frequent_from_eight_training_drawings_on(monkeypatch, tmp_path):
    """Head and tail by training nouns; items are means of nouns; galleries begin with the
    nearest."""
    nouns = ["oak", "lark", "oak", "lark", "elk", "elk"]
    judged = held([0, 0, 1, 1], nouns)
    drawn = [("i", "x", "oak")] * 8 + [("i", "x", "lark")] * 7 + [("i", "oak", "y")] * 9
    monkeypatch.setattr(ev, "training_drawings", lambda root: drawn)
    monkeypatch.setattr(ev, "pool_picture", lambda name, data: np.zeros((4, 4, 3), np.uint8))
    shown = {}

    def gallery(scores, pictures, labels):
        shown[len(labels)] = scores
        return []

    monkeypatch.setattr(ev, "same_class_gallery", gallery)
    monkeypatch.setattr(Workspace, "gallery", lambda *_: None)
    photos = torch.nn.functional.normalize(torch.tensor([[3.0, 0], [3, 1], [0, 3], [1, 3]]), dim=1)
    drawings = torch.tensor([[1.0, 0], [0, 1], [1, 0], [-1, 0], [0, -1], [0, -1]])
    actual = ev.pool_retrieval(config(name="mini"), judged, photos, drawings, Workspace(tmp_path))
    assert actual["cifar_map"] == 1
    by_noun = json.loads((tmp_path / "items/drawings_map_macro.json").read_text())
    assert by_noun[0] == by_noun[2] == 1  # elk, lark, oak
    assert by_noun[1] < 0.7
    assert actual["drawings_map_head"] == 1
    assert actual["drawings_map_tail"] == pytest.approx((by_noun[0] + by_noun[1]) / 2)
    assert all(scores.diagonal().min() > 0.99 for scores in shown.values())


def test_synthetic_classes_are_named_in_their_order(monkeypatch):
    """An image whose vector is its class's text is right."""
    pairs = ev.synthetic_set(config().data)
    names = list(pairs.class_names)
    module = SimpleNamespace(encode_texts=None)
    monkeypatch.setattr(ev, "encode_images", lambda c, m, x: features(pairs.labels))
    monkeypatch.setattr(
        ev,
        "class_embeddings",
        lambda encode, asked, templates: features(torch.tensor([names.index(n) for n in asked])),
    )
    assert ev.evaluate_synthetic(config(), module)["zeroshot_top1"] == 1
